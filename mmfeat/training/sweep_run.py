"""Run a sweep: reuse kept fits, make the missing ones, and compare all cells. Shared by `sweep fuse` and `sweep finetune`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.text import counted
from mmfeat.project.project import Project
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult, cell_records
from mmfeat.report.sweep_table import sweep_csv
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.sweep import Effect, KeptFits, SweptCell, best_first, main_effects
from mmfeat.training.grid_cells import Cell, Grid


@dataclass(frozen=True, kw_only=True)
class PlannedFit:
    """One fit of a sweep.

    Attributes
    ----------
    cell : int
        Number of its cell in the grid.
    fingerprint : str
        Digest of everything that it depends on.
    """

    cell: int
    seed: int
    fingerprint: str


class Trainer(ABC):
    """Fits the cells of a grid; the only part that differs between sweeps.

    Attributes
    ----------
    kept : KeptFits
        The fits that exist.
    planned : list of PlannedFit
        All fits of the grid, cell by cell and seed by seed.
    """

    grid: Grid
    kept: KeptFits
    planned: list[PlannedFit]

    @abstractmethod
    def of(self, grid: Grid) -> Trainer:
        """The same for another grid of the project."""

    @abstractmethod
    def recorded(self) -> list[tuple[str, dict[str, Any]]]:
        """Head or encoder, and its settings, of every kept fit that has some."""

    @abstractmethod
    def train(self, missing: Sequence[PlannedFit]) -> None:
        """Make the missing fits, and keep each as soon as it is made."""

    def swept(self, number: int) -> SweptCell:
        """A cell of the grid with its kept fits."""
        cell, several = self.grid.cells[number], len(self.grid.names) > 1
        values = ({"head": cell.name} if several else {}) | cell.values
        fits = [self.kept[one.fingerprint] for one in self.planned if one.cell == number]
        return SweptCell(name=cell.name, values=values, fits=fits)


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult(TableResult):
    """The metrics of a grid on val.

    Attributes
    ----------
    cells : list of SweptCell
        Best first.
    sources : list of Cell
        The same cells as they were planned.
    n_fits, n_trained : int
        Number of fits of all cells, and of fits made now.
    file : Path
        All cells as CSV.
    kept_mb : float
        Size of the checkpoints that are kept.
    after : str
        The command to type next; empty if the caller knows a better one.
    """

    grid: Grid
    cells: list[SweptCell]
    sources: list[Cell]
    effects: list[Effect]
    n_fits: int
    n_trained: int
    n_val: int
    metric: str
    file: Path
    kept_mb: float = 0.0
    after: str = ""

    @property
    def notes(self) -> list[str]:
        """Lines about keys that some head does not have, and about optimizers that are the same."""
        return self.grid.notes

    def _about(self) -> str:
        fits = f"{counted(self.n_fits, 'fit')}, {self.n_trained:,} made now"
        return f"sweeps/{self.file.name}: {fits}, on {counted(self.n_val, 'val row')}, best {metric_title(self.metric)} first"

    def _table(self) -> list[Record]:
        return cell_records(self.cells)


def sweep_outputs(project: Project, name: str, *, overwrite: bool) -> tuple[Outputs, Path]:
    """The table of a sweep, `sweeps/NAME.csv`; refused before any work if it was changed since it was written.

    Raises
    ------
    OutputError
        It was changed, and `overwrite` is False.
    """
    outputs, file = Outputs(project.config, overwrite=overwrite), project.root / "sweeps" / f"{name}.csv"
    outputs.check(file, own=True, earlier=True)
    return outputs, file


def run_sweep(
    trainer: Trainer, *, outputs: Outputs, file: Path, title: str = "head", numbers: Sequence[str] = ()
) -> SweepResult:
    """Make the fits of a grid that are not kept, compare all cells, and write the table.

    Parameters
    ----------
    title : str
        The first column of the table: what is swept.
    numbers : sequence of str
        Further numbers of its fits for the table.
    """
    grid, metric = trainer.grid, trainer.grid.project.config.metric
    missing = [one for one in trainer.planned if one.fingerprint not in trainer.kept]
    trainer.train(missing)
    cells = [trainer.swept(number) for number in range(len(grid.cells))]
    order = best_first(cells, metric)
    outputs.write(file, sweep_csv(order, metric, title=title, numbers=numbers), own=True, earlier=True)
    return SweepResult(
        grid=grid,
        cells=order,
        sources=[grid.cells[next(i for i, one in enumerate(cells) if one is cell)] for cell in order],
        effects=main_effects(cells, metric),
        n_fits=len(trainer.planned),
        n_trained=len(missing),
        n_val=len(grid.project.manifest.rows("val")),
        metric=metric,
        file=file,
    )
