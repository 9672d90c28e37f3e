"""`mmfeat sweep finetune`: a grid of fine-tunings of one encoder (P17: Tables 2, 3 and 10 to 13)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mmfeat.common.errors import ConfigError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.text import shown
from mmfeat.inference.fitted_rules import required_val
from mmfeat.training.earlier_cells import with_earlier
from mmfeat.training.finetune_plan import check_fit_plans
from mmfeat.training.grid import encoder_grid
from mmfeat.training.promotion import Promotion, is_in_use, promote_checkpoint
from mmfeat.training.proposed_encoders import ProposedEncoder
from mmfeat.training.sweep_encoders import SINCE, TRAINED, EncoderFit, EncoderTrainer
from mmfeat.training.sweep_run import SweepResult, run_sweep, sweep_outputs


def sweep_finetune(
    folder: Path | str,
    name: str,
    overrides: dict[str, str],
    *,
    cells: Sequence[dict[str, str]] = (),
    earlier: bool = False,
    seeds: int = 1,
    overwrite: bool = False,
) -> SweepResult:
    """Fine-tune one encoder for each cell and seed of a grid, unless the fit is kept already.

    Fits are kept in `sweeps/finetune/`; an interrupted fit continues from its own state. Only the weights of the best cell
    and of the cell with the lowest loss are kept, for their first seeds. Nothing that the project uses changes.

    Parameters
    ----------
    overrides : dict of str to str
        See :func:`mmfeat.training.grid.encoder_grid`.
    cells : sequence of dict
        Listed cells, see :func:`mmfeat.training.cell_lists.listed_cells`.
    earlier : bool
        Whether the table also has the cells of earlier sweeps whose fits are kept for the current rows.
    seeds : int
        Fits of each cell.
    overwrite : bool
        Whether the table of cells may be replaced if it was changed since it was written.

    Raises
    ------
    ConfigError
        A key or value is wrong, or the encoder has no network.
    DataError
        There are no val rows, or no labelled row to train on.
    EncoderError
        The encoder cannot be built.
    MmfeatError
        Another sweep of the project is running.
    """
    grid = encoder_grid(folder, name, overrides, cells, bare=not earlier)
    project = grid.project
    required_val(project, "rows to compare settings on")
    check_fit_plans(project, [name], freeze=False)
    outputs, file = sweep_outputs(project, f"finetune-{name}", overwrite=overwrite)
    with alone_in(project.root / "sweeps" / "finetune", "mmfeat sweep finetune"):
        trainer = EncoderTrainer(grid, seeds)
        trainer = with_earlier(trainer) if earlier else trainer
        result = run_sweep(trainer, outputs=outputs, file=file, title="encoder", numbers=(*TRAINED, *SINCE))
        return dataclasses.replace(result, kept_mb=trainer.kept_mb)


def use_cell(result: SweepResult, which: str) -> tuple[Promotion, list[str]]:
    """Make the checkpoint of one cell the project's latest: `best`, or the number of its line.

    Returns
    -------
    tuple
        The promotion, and lines for mmfeat.toml with which `mmfeat finetune` makes the same checkpoint.

    Raises
    ------
    ConfigError
        There is no such cell, it failed, or its weights are not kept.
    """
    n, project = len(result.cells), result.grid.project
    number = 1 if which == "best" else int(which) if which.isdecimal() else 0
    if not 1 <= number <= n:
        raise ConfigError(f"--use {shown(which)}: no cell of the table. Use best, or a number from 1 to {n}")
    cell = result.sources[number - 1]
    if error := result.cells[number - 1].error:
        raise ConfigError(f"--use {shown(which)}: {error}")
    checkpoint = EncoderFit(result.grid, cell).checkpoint()
    if checkpoint is None:
        raise ConfigError(
            f"--use {shown(which)}: only the weights of the best cell and of the lowest loss are kept. "
            f"Run: mmfeat finetune {cell.name} {' '.join(cell.words())}"
        )
    return promote_checkpoint(project, _swept(result), checkpoint), cell.settings(result.grid.fixed)


def best_is_in_use(result: SweepResult) -> bool:
    """Whether the project uses the checkpoint of the best cell already."""
    checkpoint = EncoderFit(result.grid, result.sources[0]).checkpoint()
    return checkpoint is not None and is_in_use(result.grid.project, _swept(result), checkpoint)


def _swept(result: SweepResult) -> ProposedEncoder:
    """The encoder of the project whose settings were swept."""
    name, project = result.sources[0].name, result.grid.project
    return ProposedEncoder(typed=name, name=name, table=project.config.encoder[name], own=True, root=project.root)
