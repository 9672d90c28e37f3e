"""The fits of `mmfeat sweep finetune`: each is a fine-tuning in its own folder; few checkpoints are kept."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import EncoderError
from mmfeat.common.progress import clock, say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.encoders.checkpoint import Checkpoint
from mmfeat.inference.fitted_rules import shipped_rule
from mmfeat.metrics import bootstrap_metrics, scores
from mmfeat.metrics.metric_rows import outcome_of
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.sweep import FIT, Fit, KeptFits, SweptCell, best_first, kept_metrics, lowest_loss
from mmfeat.training.encoder_training import finetune_encoders
from mmfeat.training.finetune_plan import fit_plan
from mmfeat.training.grid_cells import Cell, Grid
from mmfeat.training.in_sample import cached_logits, logits_in_passing, train_sample
from mmfeat.training.sweep_run import PlannedFit, Trainer

TRAINED = ("train_samples_f1", "train_loss")
SINCE = ("train_macro_f1",)  # fits that version 0.2 kept have none
WITH_INTERVAL = ("samples_f1", "macro_f1", "loss")


class EncoderTrainer(Trainer):
    """Fine-tunes the cells of a grid, one fit after another.

    Only the weights of the best cell and of the cell with the lowest loss are kept, for their first seeds.
    """

    def __init__(self, grid: Grid, n_seeds: int) -> None:
        self.grid, self.n_seeds = grid, n_seeds
        seeds = [grid.project.config.seed + i for i in range(n_seeds)]
        self._fits = [[EncoderFit(grid, cell, seed) for seed in seeds] for cell in grid.cells]
        self.planned = [
            PlannedFit(cell=number, seed=seed, fingerprint=fit.fingerprint)
            for number, fits in enumerate(self._fits)
            for seed, fit in zip(seeds, fits, strict=True)
        ]
        shape = FIT | dict.fromkeys(TRAINED, (float, None))
        self.kept = KeptFits(grid.project.root / "sweeps" / "finetune", shape)

    def of(self, grid: Grid) -> EncoderTrainer:
        """The same for another grid of the project."""
        return EncoderTrainer(grid, self.n_seeds)

    def recorded(self) -> list[tuple[str, dict[str, Any]]]:
        """The encoder and the settings of every kept fit, which may be of another encoder."""
        (name,), fits = self.grid.names, [self.kept[fingerprint] for fingerprint in self.kept]
        return [(name, fit["settings"]) for fit in fits if "settings" in fit]

    @property
    def kept_mb(self) -> float:
        """Size of the checkpoints that are kept."""
        folders = [fit.folder for fits in self._fits for fit in fits]
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) / 1e6

    def train(self, missing: Sequence[PlannedFit]) -> None:
        """Fine-tune cell by cell; an interrupted fit continues from its own state."""
        wanted, done = {one.fingerprint for one in missing}, []
        for number, fits in enumerate(self._fits):
            todo = [fit for fit in fits if fit.fingerprint in wanted]
            for fit in todo:
                self.kept.keep(fit.fingerprint, fit.train())
            done.append(self.swept(number))
            for fit in fits[1:]:
                fit.forget()
            if todo:
                cell = self.grid.cells[number]
                result = _in_words(done[-1], self.grid.project.config.metric)
                say(f"cell {number + 1} of {len(self._fits)}, {_values(cell)}: {result}")
            self._forget_weights(done)

    def _forget_weights(self, done: list[SweptCell]) -> None:
        """Remove the weights of all cells so far but the best and the one with the lowest loss."""
        wanted = [best_first(done, self.grid.project.config.metric)[0], lowest_loss(done)]
        firsts = [fits[0] for fits in self._fits[: len(done)]]
        kept = {fit.folder for fit, cell in zip(firsts, done, strict=True) if any(cell is one for one in wanted)}
        for fit in firsts:
            if fit.folder not in kept:
                fit.forget()


class EncoderFit:
    """The fine-tuning of one cell with one seed, by default the project's seed."""

    def __init__(self, grid: Grid, cell: Cell, seed: int | None = None) -> None:
        project, self.name = grid.project, cell.name
        table = dataclasses.replace(project.config.encoder[self.name], checkpoint="latest")
        seed = project.config.seed if seed is None else seed
        config = dataclasses.replace(cell.project.config, encoder={self.name: table}, seed=seed)
        sweeps = project.root / "sweeps" / "finetune"
        self.fingerprint = fit_plan(project.derived(config=config, folder=sweeps), self.name, freeze=False).fingerprint
        self.folder: Path = sweeps / self.fingerprint[:16]
        memory = sweeps / ".mmfeat"  # of the one encoder, for all cells
        self.project = project.derived(config=config, folder=self.folder, memory=memory)

    def train(self) -> Fit:
        """Fine-tune, or continue an interrupted fit; returns its metrics, or why it failed, as JSON values."""
        try:
            result = finetune_encoders(self.project, [self.name])[0]
        except EncoderError as error:
            self.forget()
            return {"error": str(error).partition(". ")[0]}  # the rest of the message is advice for mmfeat finetune
        metrics, record = result.metrics.as_dict(), result.checkpoint.record
        return {
            "settings": record["settings"],
            **kept_metrics(metrics, self.project.manifest.classes),
            "best_epoch": record["best_epoch"],
            "seconds": record["seconds"],
            "history": record["history"],
            "intervals": self._intervals(),
            **self._in_sample(),
        }

    def _intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over val rows, where they are defined."""
        project, name, manifest = self.project, self.name, self.project.manifest
        val = manifest.rows("val")
        val = val[np.argsort(id_numbers(manifest.ids[val]), kind="stable")]
        logits = cached_logits(project, project.identity(name), val).logits
        outcome = outcome_of(logits, shipped_rule(project, name))
        found = bootstrap_metrics(manifest.labels[val], outcome, WITH_INTERVAL)
        return {metric: ends for metric, ends in found.items() if np.isfinite(ends).all()}

    def _in_sample(self) -> dict[str, float]:
        """In-sample metrics with the weights of the best epoch; the rows' embeddings are not kept."""
        project, name = self.project, self.name
        manifest, identity = project.manifest, project.identity(name)
        rows = train_sample(project, project.row_keys(identity.spec.modality).present)
        passing = logits_in_passing(project, identity, rows, self.folder / "scratch")
        rows, logits, rule = rows[passing.known], passing.logits[passing.known], shipped_rule(project, name)
        found = scores(manifest.labels[rows], rule.labels(rule.probs(logits)), rule.calibrated(logits))
        return {
            "train_samples_f1": found.samples_f1,
            "train_macro_f1": found.macro_f1,
            "train_loss": found.loss,
            "n_train_scored": len(rows),
        }

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint, if its weights are kept."""
        return fit_plan(self.project, self.name, freeze=False).made

    def forget(self) -> None:
        """Remove its weights."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _values(cell: Cell) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in cell.values.items()
    )


def _in_words(cell: SweptCell, metric: str) -> str:
    if cell.error:
        return cell.error
    value = cell.mean(metric.replace("-", "_"))
    seeds = f" over {counted(len(cell.fits), 'seed')}" if len(cell.fits) > 1 else ""
    return f"{metric_title(metric)} {value:.3f}{seeds}, val loss {cell.mean('loss'):.4f}, {clock(cell.mean('seconds'))}"
