"""`mmfeat selftrain`: rounds of pseudo-labels on cached arrays, then the head once more on what the best round learned from."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.devices import torch_device
from mmfeat.errors import DataError
from mmfeat.heads.fit import fit_data
from mmfeat.metrics import better
from mmfeat.models.figures import FigureLine
from mmfeat.models.runs import ROLES, Run, already_made
from mmfeat.progress import progress, say
from mmfeat.report.rounds import write_rounds
from mmfeat.selftrain.resuming import kept_in
from mmfeat.selftrain.rounds import RoundModels, SelfTraining, self_train, with_targets
from mmfeat.workflows.deciding import needed_val
from mmfeat.workflows.fuse import (
    fit_seeds,
    head_fingerprint,
    head_inputs,
    head_lines,
    resolved_config,
    val_figures,
)
from mmfeat.workflows.headruns import TrainedHeads, save_head_run
from mmfeat.workflows.hints import to_predict
from mmfeat.workflows.project import Project

PROCEDURE = 3  # of rounds and of what is recorded of them; a run of another is made anew
ROUND_HEAD = "mlp"  # of the rounds, whatever is trained in the end: quick, and behind no other head out of fold


@dataclass(frozen=True)
class SelftrainResult:
    """A run with its rounds.

    Attributes
    ----------
    rounds : list of dict
        Each :class:`mmfeat.selftrain.rounds.Round` as run.json has it.
    lines : list of FigureLine
        The head on val; before it the same head without pseudo-labels, where `fuse` has made it.
    supervised : str or None
        That run's name.
    rises : bool or None
        Whether the head is better on val than that run.
    n_partly : int
        Of the `n_train` labelled rows, those that lack some of their labels.
    after : str
        The command to type next.
    """

    run: Run
    rounds: list[dict]
    best: int
    lines: list[FigureLine]
    supervised: str | None
    rises: bool | None
    made: bool
    n_train: int
    n_partly: int
    n_unlabelled: int
    n_val: int
    after: str


def selftrain(project: Project) -> SelftrainResult:
    """Run the project's self-training.

    Raises
    ------
    DataError
        There are no unlabelled rows to learn from, or no val rows to stop by.
    MissingFeatures
        Embeddings are not in the store.
    """
    config, manifest = project.config, project.manifest
    if config.fuse.folds:
        say(f"selftrain trains without folds: fuse.folds = {config.fuse.folds} is for mmfeat fuse")
    head = config.fuse.head
    identities, table, rows = head_inputs(project, unlabelled=True, heads=[head])
    free = np.flatnonzero((manifest.labels[rows] < 0).any(1) & (manifest.split[rows] == "train"))
    if not len(free):
        raise DataError(
            "manifest.parquet: no unlabelled row to learn from. Rows with blank labels are; or run: mmfeat fuse"
        )
    needed_val(project, "row to stop by")
    n_train, n_partly = len(manifest.rows("train")), int((manifest.labels[rows[free]] >= 0).any(1).sum())
    settings = resolved_config(project, head, identities, table)
    models = RoundModels(config.fuse.linear, ROUND_HEAD, resolved_config(project, ROUND_HEAD, identities))
    fingerprint = head_fingerprint(
        project, "selftrain", head, settings, identities, table,
        unlabelled=table.digest(rows[free], list(identities)),
        selftrain={"procedure": PROCEDURE, **config.selftrain.of_training()}, rounds_models=dataclasses.asdict(models),
        **({"accepted_by": dataclasses.asdict(config.predict)} if config.predict.fits else {}),
    )  # fmt: skip
    supervised_fingerprint = head_fingerprint(project, "head", head, settings, identities, table)
    run = already_made(project.runs, fingerprint)
    made = run is None
    if run is None:
        start = time.perf_counter()
        data = fit_data(table, list(identities), torch_device(config.device), rows)
        resuming = project.runs / ".resume-selftrain"
        with progress("self-training", config.selftrain.rounds + 1, "rounds") as bar:
            trained = self_train(
                data, free, models, config.selftrain,
                metric=config.metric, seed=config.seed, rule=config.predict, memory=kept_in(resuming / fingerprint[:16]),
                on_round=lambda one: bar.advance(1, f"{config.metric} {one.figures.scores.value(config.metric):.4f}"),
            )  # fmt: skip
        labelled, data = data.train, with_targets(data, free, trained.targets)
        found = TrainedHeads.on_train(fit_seeds(project, head, data, settings), data, table.ids[rows])
        found.roles[np.setdiff1d(data.train, labelled)] = ROLES["pseudo-labelled"]
        run = save_head_run(
            project, "selftrain", head, settings, identities, table, found, data, rows, fingerprint,
            _record(trained, config.selftrain.policy, time.perf_counter() - start),
        )  # fmt: skip
        write_rounds(run.folder, run.name, run.record["rounds"], table.classes, config.metric)
        shutil.rmtree(resuming, ignore_errors=True)
    supervised, rises, lines = already_made(project.runs, supervised_fingerprint), None, head_lines(project, run)
    if supervised is not None:
        before, now = val_figures(project, supervised), val_figures(project, run)
        rises = better(config.metric, now.scores.value(config.metric), before.scores.value(config.metric))
        seconds, note = supervised.record["seconds"], "without pseudo-labels"
        lines = [FigureLine.of(f"{supervised.name}, mean", before, seconds, note), *lines]
    return SelftrainResult(
        run, run.record["rounds"], run.record["best_round"], lines, supervised.name if supervised else None, rises,
        made, n_train, n_partly, len(free) - n_partly, len(manifest.rows("val")),
        to_predict(project) or "mmfeat runs",
    )  # fmt: skip


def _record(trained: SelfTraining, policy: str, seconds: float) -> dict[str, Any]:
    return {
        "policy": policy,
        "rounds": [{**vars(r), "figures": r.figures.as_dict()} for r in trained.rounds],
        "best_round": trained.best,
        "ended": trained.ended,
        "transductive": trained.best > 0,
        "seconds": seconds,
    }
