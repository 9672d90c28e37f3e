"""`mmfeat selftrain`: rounds of pseudo-labels on cached arrays, then the head once more on what the best round learned from."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.progress import progress, say
from mmfeat.inference.fitted_rules import required_val
from mmfeat.inference.next_commands import to_predict
from mmfeat.metrics import better
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.round_table import FILES as ROUNDS
from mmfeat.report.round_table import write_rounds
from mmfeat.runs.run import ROLES, Run, already_made
from mmfeat.selftraining.rounds import LINEAR, MLP, Round, SelfTraining, self_train, with_targets
from mmfeat.selftraining.saved_rounds import RESUME, kept_in
from mmfeat.training.encoder_rounds import Encoded, EncoderCost, EncoderRounds, as_before, tunable
from mmfeat.training.finetune_plan import fit_plan
from mmfeat.training.head_runs import TrainedHeads, save_head_run
from mmfeat.training.head_training import (
    fit_seeds,
    head_fingerprint,
    head_inputs,
    head_lines,
    resolved_config,
    val_metrics,
)

PROCEDURE = 3  # of rounds and of what is recorded of them; a run of another is made anew


@dataclass(frozen=True)
class SelftrainResult:
    """A run with its rounds.

    Attributes
    ----------
    rounds : list of dict
        Each :class:`mmfeat.selftraining.rounds.Round` as run.json has it.
    lines : list of MetricRow
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
    lines: list[MetricRow]
    supervised: str | None
    rises: bool | None
    made: bool
    n_train: int
    n_partly: int
    n_unlabelled: int
    n_val: int
    after: str


def selftrain(project: Project, confirm: Callable[[EncoderCost], None] | None = None) -> SelftrainResult:
    """Run the project's self-training.

    Parameters
    ----------
    confirm : callable, optional
        Told what encoder rounds would cost before any work, where there are some; raises to go no further.

    Raises
    ------
    ConfigError
        Encoder rounds are asked for, and no encoder is fine-tuned, or its checkpoint is named in mmfeat.toml.
    DataError
        There are no unlabelled rows to learn from, or no val rows to stop by.
    MissingFeatures
        Embeddings are not in the store.
    """
    config, manifest = project.config, project.manifest
    if config.fuse.folds:
        say(f"selftrain trains without folds: fuse.folds = {config.fuse.folds} is for mmfeat fuse")
    plan = _planned(project)
    run = already_made(project.runs, plan.fingerprint)
    made = run is None
    if run is None:
        if confirm is not None and plan.encoders is not None and plan.encoders.times:
            confirm(plan.encoders.cost())
        run = _make(project, plan)
    _complete(project, plan, run, made)
    supervised, rises, lines = already_made(project.runs, plan.supervised), None, head_lines(project, run)
    if supervised is not None:
        before, now = val_metrics(project, supervised), val_metrics(project, run)
        rises = better(config.metric, now.scores.value(config.metric), before.scores.value(config.metric))
        seconds, note = supervised.record["seconds"], "without pseudo-labels"
        lines = [MetricRow.of(f"{supervised.name}, mean", before, seconds, note=note), *lines]
    n_partly = int((manifest.labels[plan.rows[plan.free]] >= 0).any(1).sum())
    return SelftrainResult(
        run,
        run.record["rounds"],
        run.record["best_round"],
        lines,
        supervised.name if supervised else None,
        rises,
        made,
        len(manifest.rows("train")),
        n_partly,
        len(plan.free) - n_partly,
        len(manifest.rows("val")),
        to_predict(project) or "mmfeat runs",
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a self-training starts with.

    Attributes
    ----------
    rows, free : np.ndarray
        Rows of the manifest that are read, and which of them (positions in `rows`) may get pseudo-labels.
    fingerprint, supervised : str
        Digests of all that its run is made from, and the run of the same head without pseudo-labels.
    folder : Path
        Where it is kept what an interrupted one has done.
    encoders : EncoderRounds or None
        None where they stay as they are.
    """

    start: Encoded
    rows: np.ndarray
    free: np.ndarray
    settings: Any
    fingerprint: str
    supervised: str
    folder: Path
    encoders: EncoderRounds | None


def _planned(project: Project) -> _Plan:
    config, manifest, head = project.config, project.manifest, project.config.fuse.head
    names = tunable(project) if config.selftrain.encoder_every else []
    begun = as_before(project) if names else project
    identities, table, rows = head_inputs(begun, unlabelled=True, heads=[head])
    free = np.flatnonzero((manifest.labels[rows] < 0).any(1) & (manifest.split[rows] == "train"))
    if not len(free):
        raise DataError(
            "manifest.parquet: no unlabelled row to learn from. Rows with blank labels are; or run: mmfeat fuse"
        )
    required_val(project, "row to stop by")
    settings = resolved_config(begun, head, identities, table)
    fingerprint = head_fingerprint(
        begun,
        "selftrain",
        head,
        settings=settings,
        identities=identities,
        table=table,
        unlabelled=table.digest(rows[free], list(identities)),
        selftrain={"procedure": PROCEDURE, **config.selftrain.of_training()},
        models=[dataclasses.asdict(LINEAR), dataclasses.asdict(MLP)],
        **({"accepted_by": dataclasses.asdict(config.predict)} if config.predict.fits else {}),
        **({"encoders_by": [fit_plan(begun, name, freeze=False).fingerprint for name in names]} if names else {}),
    )
    supervised = head_fingerprint(begun, "head", head, settings=settings, identities=identities, table=table)
    start, folder = Encoded(identities, table), project.runs / RESUME / fingerprint[:16]
    encoders = EncoderRounds(begun, folder, start, names=names, rows=rows, free=free) if names else None
    return _Plan(start, rows, free, settings, fingerprint, supervised, folder, encoders)


def _make(project: Project, plan: _Plan) -> Run:
    """Rounds, then the head once more, over all seeds, on what the best of them learned from."""
    config, manifest, start = project.config, project.manifest, time.perf_counter()
    encoders, used = plan.encoders, plan.start
    data = used.data(config, plan.rows)
    with progress("self-training", config.selftrain.rounds + 1, "rounds") as bar:
        trained = self_train(
            data,
            plan.free,
            config.selftrain,
            metric=config.metric,
            seed=config.seed,
            rule=config.predict,
            refit=encoders,
            memory=kept_in(plan.folder),
            on_round=lambda one: bar.advance(1, f"{config.metric} {one.metrics.scores.value(config.metric):.4f}"),
        )
    if encoders and (used := encoders.of(trained.best)) is not plan.start:
        data = used.data(config, plan.rows)
    data = with_targets(data, plan.free, trained.targets)
    fits = fit_seeds(project, config.fuse.head, data, plan.settings)
    found = TrainedHeads.on_train(fits, data, used.table.ids[plan.rows])
    labelled = (manifest.labels[plan.rows] >= 0).any(1)
    found.roles[data.train[~labelled[data.train]]] = ROLES["pseudo-labelled"]
    identities = encoders.settle(project, trained.best) if encoders else used.identities
    run = save_head_run(
        project,
        "selftrain",
        config.fuse.head,
        settings=plan.settings,
        identities=identities,
        table=used.table,
        trained=found,
        data=data,
        rows=plan.rows,
        fingerprint=plan.fingerprint,
        more=_record(trained, config.selftrain.policy, time.perf_counter() - start),
    )
    return run


def _complete(project: Project, plan: _Plan, run: Run, made: bool) -> None:
    """What follows a run, also one whose making was stopped right after it was there."""
    if not all((run.folder / name).is_file() for name in ROUNDS):
        write_rounds(run.folder, run.name, run.record["rounds"], run.classes, project.config.metric)
    kept = project.runs / RESUME
    shutil.rmtree(kept if made else plan.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # that of other settings stays
        kept.rmdir()


def _round_record(one: Round) -> dict[str, Any]:
    names = {"metrics": "figures"}  # as run.json names them
    return {names.get(k, k): v.as_dict() if k == "metrics" else v for k, v in vars(one).items()}


def _record(trained: SelfTraining, policy: str, seconds: float) -> dict[str, Any]:
    return {
        "policy": policy,
        "rounds": [_round_record(r) for r in trained.rounds],
        "best_round": trained.best,
        "ended": trained.ended,
        "transductive": trained.best > 0,
        "seconds": seconds,
    }
