"""`mmfeat sweep finetune`: a grid of fine-tunings of one encoder (P17: Tables 2, 3 and 10 to 13); nothing that is used changes."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.json_shapes import Number, Shape, misfit
from mmfeat.common.progress import clock, say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.common.text import counted, shown
from mmfeat.encoders.checkpoint import Checkpoint
from mmfeat.inference.fitted_rules import required_val, shipped_rule
from mmfeat.metrics import scores
from mmfeat.project.encoding import encode_missing
from mmfeat.report.outputs import Outputs
from mmfeat.report.sweep_table import sweep_csv
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.sweep_effects import METRIC_NAMES, Effect, SweptCell, best_first, lowest_loss, main_effects
from mmfeat.store import FeatureStore
from mmfeat.training.encoder_grid import FinetuneCell, FinetuneGrid, finetune_grid
from mmfeat.training.encoder_training import finetune_encoders
from mmfeat.training.finetune_plan import check_fit_plans, fit_plan
from mmfeat.training.promotion import Promotion, promote_checkpoint
from mmfeat.training.proposed_encoders import ProposedEncoder

FORMAT = 1
IN_SAMPLE = 2000  # training rows at most that a cell's own training figures are measured on
TRAINED = ("train_samples_f1", "train_loss")
_FITTED: Shape = {
    "figures": dict.fromkeys(METRIC_NAMES, (float, None)),
    "best_epoch": Number(int, low=0),
    "seconds": float,
    **dict.fromkeys(TRAINED, (float, None)),
}


@dataclass(frozen=True)
class FinetuneSweep:
    """A grid's figures on val.

    Attributes
    ----------
    cells : list of SweptCell
        Best first.
    sources : list of FinetuneCell
        The same cells as they were planned.
    n_fits, n_trained : int
        Fits of all cells, and those that were trained now.
    kept_mb : float
        Of the checkpoints that are kept: of the best cell, and of that with the lowest loss.
    file : Path
        All cells as CSV.
    """

    grid: FinetuneGrid
    cells: list[SweptCell]
    sources: list[FinetuneCell]
    effects: list[Effect]
    n_fits: int
    n_trained: int
    n_val: int
    n_seeds: int
    metric: str
    kept_mb: float
    file: Path


def sweep_finetune(
    folder: Path | str, name: str, overrides: dict[str, str], n_seeds: int = 1, overwrite: bool = False
) -> FinetuneSweep:
    """Fine-tune one encoder once for each cell and seed of a grid, where that is not done yet.

    What is done is kept in `sweeps/finetune/`; an interrupted fit goes on from its own state. Of the weights only those of the
    best cell and of that with the lowest loss stay, by their first seed.

    Parameters
    ----------
    overwrite : bool
        Whether the table of cells may be replaced where it was changed since it was written.

    Raises
    ------
    ConfigError
        A key or value is wrong, or the encoder has no network.
    DataError
        There are no val rows, or no labelled row to train on.
    EncoderError
        The encoder cannot be built.
    MmfeatError
        Another sweep of the project is under way.
    """
    grid = finetune_grid(folder, name, overrides)
    project = grid.project
    n_val = len(required_val(project, "rows to compare settings on"))
    check_fit_plans(project, [name], freeze=False)
    file, outputs = project.root / "sweeps" / f"finetune-{name}.csv", Outputs(project.config, overwrite=overwrite)
    outputs.check(file, own=True, earlier=True)  # before any work
    with alone_in(project.root / "sweeps" / "finetune", "mmfeat sweep finetune"):
        return _swept(grid, name, n_seeds, n_val, file=file, outputs=outputs)


def _swept(grid: FinetuneGrid, name: str, n_seeds: int, n_val: int, *, file: Path, outputs: Outputs) -> FinetuneSweep:
    """Fine-tune what is not done yet, and compare all of it."""
    project, metric = grid.project, grid.project.config.metric
    firsts: list[_Fit] = []
    done: list[SweptCell] = []
    n_trained = 0
    for number, cell in enumerate(grid.cells, 1):
        fits = [_Fit(grid, cell, seed) for seed in (project.config.seed + i for i in range(n_seeds))]
        trained = [fit.train() for fit in fits if fit.record is None]
        firsts.append(fits[0])
        done.append(SweptCell(name, cell.values, [fit.record for fit in fits]))
        for fit in fits[1:]:
            fit.forget()
        if trained:
            n_trained += len(trained)
            say(f"cell {number} of {len(grid.cells)}, {_said(cell)}: {_result(done[-1], metric)}")
        _keep(firsts, done, metric)
    order = best_first(done, metric)
    sources = [grid.cells[next(i for i, one in enumerate(done) if one is cell)] for cell in order]
    outputs.write(file, sweep_csv(order, metric, "encoder", TRAINED), own=True, earlier=True)
    mb = sum(path.stat().st_size for fit in firsts for path in fit.folder.rglob("*") if path.is_file()) / 1e6
    n_fits = len(grid.cells) * n_seeds
    return FinetuneSweep(
        grid, order, sources, main_effects(done, metric), n_fits, n_trained, n_val, n_seeds, metric, mb, file
    )


def use_cell(result: FinetuneSweep, which: str) -> tuple[Promotion, list[str]]:
    """Make one cell's checkpoint the project's latest: `best`, or the number of its line.

    Returns
    -------
    tuple
        What was done, and the lines to write into mmfeat.toml so that `mmfeat finetune` agrees.

    Raises
    ------
    ConfigError
        There is no such cell, it failed, or its weights are not kept.
    """
    n, grid = len(result.cells), result.grid
    number = 1 if which == "best" else int(which) if which.isdecimal() else 0
    if not 1 <= number <= n:
        raise ConfigError(f"--use {shown(which)}: no cell of the table. Use best, or a number from 1 to {n}")
    cell = result.sources[number - 1]
    if error := result.cells[number - 1].error:
        raise ConfigError(f"--use {shown(which)}: {error}")
    checkpoint = _Fit(grid, cell).checkpoint()
    if checkpoint is None:
        words = " ".join(f"--set {grid.dotted(key)}={value}" for key, value in cell.values.items())
        raise ConfigError(
            f"--use {shown(which)}: only the weights of the best cell and of the lowest loss are kept. "
            f"Run: mmfeat finetune {grid.name} {words}"
        )
    table = grid.project.config.encoder[grid.name]
    return promote_checkpoint(
        grid.project, ProposedEncoder(grid.name, grid.name, table, True), checkpoint
    ), grid.settings(cell)


class _Fit:
    """One cell's fine-tuning by one seed; the project's own seed, where none is given."""

    def __init__(self, grid: FinetuneGrid, cell: FinetuneCell, seed: int | None = None) -> None:
        project, self.name = grid.project, grid.name
        table = dataclasses.replace(project.config.encoder[self.name], checkpoint="latest")
        seed = project.config.seed if seed is None else seed
        config = dataclasses.replace(cell.config, encoder={self.name: table}, seed=seed)
        sweeps = project.root / "sweeps" / "finetune"
        self.fingerprint = fit_plan(project.derived(config=config, folder=sweeps), self.name, freeze=False).fingerprint
        self.folder = sweeps / self.fingerprint[:16]
        self.file = self.folder.with_suffix(".json")
        self.project = project.derived(
            config=config, folder=self.folder, memory=sweeps / ".mmfeat"
        )  # of the one encoder, for all cells
        self.record = self._read()

    def _read(self) -> dict[str, Any] | None:
        """What was kept; None where there is nothing, or it cannot be read."""
        try:
            record = read_record(self.file, FORMAT, {"fingerprint": str}, "It is made again")
            if record["fingerprint"] != self.fingerprint:
                raise ValueError(f"{self.file}: is of another fit. It is made again")
            if not record.get("error") and (why := misfit(record, _FITTED)):
                raise ValueError(f"{self.file}: damaged: {why}. It is made again")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            say(str(error))
            return None
        return record

    def train(self) -> _Fit:
        """Fine-tune, or go on with it; keeps the figures, or why it failed."""
        made = {"format": FORMAT, "fingerprint": self.fingerprint}
        try:
            result = finetune_encoders(self.project, [self.name])[0]
        except EncoderError as error:
            self.record = {
                **made,
                "error": str(error).partition(". ")[0],
            }  # what it says to do is of a project's own fit
            self.forget()
        else:
            figures, checkpoint = result.figures.as_dict(), result.checkpoint.record
            self.record = {
                **made,
                "settings": checkpoint["settings"],
                "figures": {key: figures[key] for key in METRIC_NAMES},
                "best_epoch": checkpoint["best_epoch"],
                "seconds": checkpoint["seconds"],
                "history": checkpoint["history"],
                **self._in_sample(),
            }
        write_sealed(self.file, self.record)
        return self

    def _in_sample(self) -> dict[str, float]:
        """Figures of rows that it was trained on, by the weights of its best epoch; their embeddings are not kept."""
        project, name = self.project, self.name
        manifest, identity = project.manifest, project.identity(name)
        train = manifest.rows("train")
        train = train[project.row_keys(identity.spec.modality).present[train]]
        rows = np.sort(train[np.argsort(id_numbers(manifest.ids[train]), kind="stable")[:IN_SAMPLE]])
        decision = shipped_rule(project, name)
        store = FeatureStore(self.folder / "scratch", project.store.dtype)
        scratch = project.derived(store=store)
        try:
            encode_missing(scratch, identity, rows)
            table = scratch.table_of({name: (identity.spec, None)}, rows)
            rows = rows[table.present[name][rows]]
            embeddings = np.asarray(table.embeddings[name][rows])
        finally:
            shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        logits = project.output(identity).in_order_of(manifest.classes).logits(embeddings)
        found = scores(manifest.labels[rows], decision.labels(decision.probs(logits)), decision.calibrated(logits))
        return {"train_samples_f1": found.samples_f1, "train_loss": found.loss, "n_train_scored": len(rows)}

    def checkpoint(self) -> Checkpoint | None:
        """What was made, where it is kept."""
        return fit_plan(self.project, self.name, freeze=False).made

    def forget(self) -> None:
        """Remove its weights."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _keep(fits: list[_Fit], done: list[SweptCell], metric: str) -> None:
    """Of the cells that are done only the weights of the best and of the lowest loss stay."""
    wanted = [best_first(done, metric)[0], lowest_loss(done)]
    kept = {fit.folder for fit, cell in zip(fits, done, strict=True) if any(cell is one for one in wanted)}
    for fit in fits:
        if fit.folder not in kept:
            fit.forget()


def _said(cell: FinetuneCell) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in cell.values.items()
    )


def _result(cell: SweptCell, metric: str) -> str:
    if cell.error:
        return cell.error
    figure = cell.mean(metric.replace("-", "_"))
    seeds = f" over {counted(len(cell.heads), 'seed')}" if len(cell.heads) > 1 else ""
    return (
        f"{metric_title(metric)} {figure:.3f}{seeds}, val loss {cell.mean('loss'):.4f}, {clock(cell.mean('seconds'))}"
    )
