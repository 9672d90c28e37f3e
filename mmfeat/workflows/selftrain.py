"""`mmfeat selftrain`: rounds of pseudo-labels on cached features, then the head on the labels of the best round."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.progress import clock, progress, say
from mmfeat.common.text import counted
from mmfeat.config.schema import SelftrainConfig
from mmfeat.encoders.resolve import Identity
from mmfeat.inference.fitted_rules import required_val
from mmfeat.inference.next_commands import after_selftrain
from mmfeat.inference.run_result import RunResult, check_naming, to_name
from mmfeat.metrics import better
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.result import Record, metric_records
from mmfeat.report.round_table import FILES as ROUNDS
from mmfeat.report.round_table import write_rounds
from mmfeat.runs.run import ROLES, Run, already_made
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.selftraining.round_models import RoundModels, teacher_head
from mmfeat.selftraining.rounds import Round, SelfTraining, self_train, with_targets
from mmfeat.selftraining.saved_rounds import RESUME, kept_in
from mmfeat.training.encoder_rounds import Encoded, EncoderCost, EncoderRounds, as_before, tunable
from mmfeat.training.finetune_plan import fit_plan
from mmfeat.training.head_runs import TrainedHeads, save_head_run, tokens_read
from mmfeat.training.head_training import (
    fit_seeds,
    head_fingerprint,
    head_inputs,
    head_lines,
    resolved_config,
    run_threshold,
    val_metrics,
)

PROCEDURE = 3  # version of the rounds and their record; a run of another version is made again


@dataclass(frozen=True, kw_only=True, repr=False)
class SelftrainResult(RunResult):
    """A run and its rounds.

    Attributes
    ----------
    rounds : list of dict
        Each :class:`mmfeat.selftraining.rounds.Round` as in run.json.
    best : int
        Number of the round whose labels the head was trained on.
    lines : list of MetricRow
        Metrics of the head on val. The first row is the same head without pseudo-labels, if `fuse` has made it.
    supervised : str or None
        Name of the run of the same head without pseudo-labels.
    rises : bool or None
        Whether the head is better on val than that run.
    n_train, n_partly, n_unlabelled, n_val : int
        Labelled rows; partly labelled rows among them; unlabelled rows; val rows.
    after : str
        The command to type next.
    """

    rounds: list[dict[str, Any]]
    best: int
    lines: list[MetricRow]
    supervised: str | None
    rises: bool | None
    n_train: int
    n_partly: int
    n_unlabelled: int
    n_val: int
    after: str

    def _about(self) -> str:
        origin = f"from round {self.best}" if self.best else "from the supervised round"
        rows = f"{self.n_train:,} labelled + {counted(self.n_unlabelled, 'unlabelled row')}"
        return f"{super()._about()} {origin} of {len(self.rounds) - 1}: {rows}"

    def _table(self) -> list[Record]:
        return metric_records(self.lines)


@dataclass(frozen=True, eq=False)
class SelftrainPlan:
    """The inputs of self-training. Nothing is trained yet.

    Attributes
    ----------
    start : Encoded
        The features of the first round.
    rows, free : np.ndarray
        Rows of the manifest that are read, and the positions in `rows` of rows that may get pseudo-labels.
    settings : HeadConfig
        Settings of the head.
    models : RoundModels
        The models of a round.
    fingerprint, supervised : str
        Digests of everything that the run depends on, and of the same head without pseudo-labels.
    folder : Path
        The folder of the rounds, from which an interrupted self-training resumes.
    encoders : EncoderRounds or None
        None if the encoders do not change.
    run : Run or None
        The existing run with this fingerprint.
    naming : Naming
        The name and the note of the run, if it is made now.
    """

    start: Encoded
    rows: np.ndarray
    free: np.ndarray
    settings: Any
    models: RoundModels
    fingerprint: str
    supervised: str
    folder: Path
    encoders: EncoderRounds | None
    run: Run | None
    naming: Naming

    def cost(self) -> EncoderCost | None:
        """Measure the cost of the encoder rounds. None if there are none to do."""
        if self.run is not None or self.encoders is None or not self.encoders.times:
            return None
        return self.encoders.cost()


def about_cost(cost: EncoderCost) -> str:
    """The cost of encoder rounds in a sentence."""
    once = ""
    if cost.front_mb:
        once = f" Cached layers: once, about {clock(cost.front_seconds)} and {cost.front_mb:,.1f} MB."
    return (
        f"Encoder rounds: up to {cost.times}, each fine-tunes {' and '.join(cost.names)} on "
        f"{counted(cost.n_rows, 'row')} and encodes all rows again: about {clock(cost.seconds)} each, "
        f"{clock(cost.all_seconds)} in all, and {cost.mb:,.1f} MB each.{once}"
    )


def plan_selftrain(project: Project, naming: Naming = NO_NAME) -> SelftrainPlan:
    """Check and plan the project's self-training.

    Raises
    ------
    ConfigError
        `encoder_every` is set, but no encoder is fine-tuned, or mmfeat.toml names its checkpoint.
    DataError
        There are no unlabelled rows to learn from, or no val rows to stop by.
    MissingFeatures
        Embeddings are not in the store.
    RunError
        The name cannot be used, or a head does not take the inputs.
    """
    config, manifest, head = project.config, project.manifest, project.config.fuse.head
    if config.fuse.folds:
        say(f"selftrain trains without folds: fuse.folds = {config.fuse.folds} is for mmfeat fuse")
    names = tunable(project) if config.selftrain.encoder_every else []
    begun = as_before(project) if names else project
    teacher = teacher_head(config.selftrain)
    identities, table, rows = head_inputs(begun, unlabelled=True, heads=[head, *filter(None, [teacher])])
    free = np.flatnonzero((manifest.labels[rows] < 0).any(1) & (manifest.split[rows] == "train"))
    if not len(free):
        raise DataError(
            "manifest.parquet: no unlabelled row to learn from. Add rows with blank labels, or run: mmfeat fuse"
        )
    required_val(project, "row to stop by")
    settings = resolved_config(begun, head, identities, table)
    own = resolved_config(begun, teacher, identities, table) if teacher else None
    models = RoundModels.of(config.selftrain, config.fuse, own)
    fingerprint = head_fingerprint(
        begun,
        "selftrain",
        head,
        settings=settings,
        identities=identities,
        table=table,
        unlabelled=table.digest(rows[free], list(identities)),
        **_rounds_depend_on(begun, models, identities=identities, names=names),
        **({"teacher_tokens": tokens_read(begun, teacher, own, table)} if teacher else {}),
    )
    start, folder = Encoded(identities, table), project.runs_folder / RESUME / fingerprint[:16]
    run = already_made(project.runs_folder, fingerprint)
    check_naming(project, naming, run)
    return SelftrainPlan(
        start=start,
        rows=rows,
        free=free,
        settings=settings,
        models=models,
        fingerprint=fingerprint,
        supervised=head_fingerprint(begun, "head", head, settings=settings, identities=identities, table=table),
        folder=folder,
        encoders=EncoderRounds(begun, folder, start, names=names, rows=rows, free=free) if names else None,
        run=run,
        naming=naming,
    )


def _rounds_depend_on(
    project: Project, models: RoundModels, *, identities: dict[str, Identity], names: list[str]
) -> dict[str, Any]:
    """The part of the fingerprint about the rounds: their settings and, of encoders that they fine-tune, the start."""
    config = project.config
    parts = {"selftrain": {"procedure": PROCEDURE, **config.selftrain.of_training()}, "models": models.of_training()}
    if config.predict.fits:
        parts["accepted_by"] = dataclasses.asdict(config.predict)
    if names:
        parts["encoders_by"] = [fit_plan(project, name, freeze=False).fingerprint for name in names]
    if names and models.fused_is_judged:
        parts["outputs"] = [identities[name].output_key for name in names]
    return parts


def selftrain(project: Project, plan: SelftrainPlan | None = None) -> SelftrainResult:
    """Run the project's self-training.

    Parameters
    ----------
    plan : SelftrainPlan, optional
        The result of :func:`plan_selftrain` for the same project. If None, it is made here, with the same errors.
    """
    config, manifest = project.config, project.manifest
    plan = plan or plan_selftrain(project)
    run = plan.run or _make(project, plan)
    _complete(project, plan, run)
    supervised, rises, lines = already_made(project.runs_folder, plan.supervised), None, head_lines(project, run)
    if supervised is not None:
        before, now = val_metrics(project, supervised), val_metrics(project, run)
        rises = better(config.metric, now.scores.value(config.metric), before.scores.value(config.metric))
        seconds, note = supervised.record["seconds"], "without pseudo-labels"
        lines = [MetricRow.of(f"{supervised.name}, mean", before, seconds, note=note), *lines]
    n_partly = int((manifest.labels[plan.rows[plan.free]] >= 0).any(1).sum())
    return SelftrainResult(
        run=run,
        rounds=run.record["rounds"],
        best=run.record["best_round"],
        lines=lines,
        supervised=supervised.name if supervised else None,
        rises=rises,
        made=run.is_new,
        threshold=run_threshold(project, run),
        n_train=len(manifest.rows("train")),
        n_partly=n_partly,
        n_unlabelled=len(plan.free) - n_partly,
        n_val=len(manifest.rows("val")),
        after=to_name(run, plan.naming) or after_selftrain(project),
    )


def _make(project: Project, plan: SelftrainPlan) -> Run:
    """Run the rounds, then train the head with all seeds on the labels of the best round."""
    config, manifest, start = project.config, project.manifest, time.perf_counter()
    encoders, used = plan.encoders, plan.start
    data = used.data(config, plan.rows)
    with progress("self-training", config.selftrain.rounds, "rounds") as bar:
        trained = self_train(
            data,
            plan.free,
            config.selftrain,
            metric=config.metric,
            seed=config.seed,
            rule=config.predict,
            models=plan.models,
            outputs=encoders.outputs() if encoders else None,
            refit=encoders,
            memory=kept_in(plan.folder),
            on_round=lambda one: bar.advance(
                min(one.number, 1), f"{config.metric} {one.metrics.scores.value(config.metric):.4f}"
            ),
        )
    if encoders and (used := encoders.of(trained.best)) is not plan.start:
        data = used.data(config, plan.rows)
    data = with_targets(data, plan.free, trained.targets)
    fits = fit_seeds(project, config.fuse.head, data, plan.settings)
    found = TrainedHeads.on_train(fits, data, used.table.ids[plan.rows])
    labelled = (manifest.labels[plan.rows] >= 0).any(1)
    found.roles[data.train[~labelled[data.train]]] = ROLES["pseudo-labelled"]
    identities = encoders.settle(project, trained.best) if encoders else used.identities
    return save_head_run(
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
        more=_record(trained, config.selftrain, time.perf_counter() - start),
        naming=plan.naming,
    )


def _complete(project: Project, plan: SelftrainPlan, run: Run) -> None:
    """Write the files of the rounds and remove the kept state, even if a process was killed right after saving the run."""
    if not all((run.folder / name).is_file() for name in ROUNDS):
        write_rounds(run.folder, run.record["rounds"], classes=run.classes, metric=project.config.metric)
    kept = project.runs_folder / RESUME
    shutil.rmtree(kept if run.is_new else plan.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # the state of other settings stays
        kept.rmdir()


def _round_record(one: Round) -> dict[str, Any]:
    names = {"metrics": "figures"}  # as run.json names them
    return {names.get(k, k): v.as_dict() if k == "metrics" else v for k, v in vars(one).items()}


def _record(trained: SelfTraining, config: SelftrainConfig, seconds: float) -> dict[str, Any]:
    return {
        "policy": config.policy,
        **({"teacher": config.teacher, "encoder_every": config.encoder_every} if config.policy == "paper" else {}),
        "rounds": [_round_record(r) for r in trained.rounds],
        "best_round": trained.best,
        "ended": trained.ended,
        "transductive": trained.best > 0,
        "seconds": seconds,
    }
