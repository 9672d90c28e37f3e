"""Runs and encoders on the current val rows, best first: what `mmfeat runs` lists, and which run is the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import MmfeatError, RunError
from mmfeat.common.lineage import RowUse
from mmfeat.encoders.resolve import Identity
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.inference.logits import encoder_logits, kept_logits, run_logits
from mmfeat.inference.next_commands import to_fuse
from mmfeat.metrics import better
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.named_models import NamedModel, find_model
from mmfeat.project.project import Project
from mmfeat.project.staleness import (
    TRAINED_ON_VAL,
    about_relabelled,
    labels_now,
    lineage_of_encoder,
    state_of,
    trained_on_val,
)
from mmfeat.runs.run import Run, all_runs, damaged_runs

_NAMED = 3  # runs whose reasons an error gives


@dataclass(frozen=True, kw_only=True)
class RankedRun:
    """A line of `mmfeat runs`.

    Attributes
    ----------
    made_from : str
        Encoders or members; the model of an encoder.
    metrics : Metrics or None
        Metrics on the current val rows. None without val rows or if they cannot be computed: then `state` says why.
    size_mb : float or None
        Size of the whole model, encoders included.
    state : str
        `current`, `stale: ...`, `damaged: ...`, or why it is not ranked.
    run : Run or None
        None for an encoder, or if run.json cannot be read.
    transductive : bool
        Whether it was trained on rows that are unlabelled here, without their labels.
    val_use : RowUse or None
        How the run or encoder used the current val rows. None without metrics.
    relabelled : str
        How many rows it learned with other labels than they have now; empty if none.
    """

    name: str
    made_from: str
    metrics: Metrics | None
    size_mb: float | None
    state: str
    run: Run | None
    transductive: bool = False
    val_use: RowUse | None = None
    relabelled: str = ""

    @property
    def about(self) -> str:
        """Its state, and notes on its training."""
        return ", ".join(filter(None, [self.state, "transductive" if self.transductive else "", self.relabelled]))

    @property
    def note(self) -> str:
        """A person's text about the run; empty if there is none."""
        return "" if self.run is None else self.run.note

    @property
    def created(self) -> str:
        """When the run was made; empty for an encoder."""
        return "" if self.run is None else self.run.created


def ranked_runs(project: Project) -> list[RankedRun]:
    """Runs, and encoders with a linear probe: best on val first, without val rows newest first; without metrics last."""
    val = project.manifest.rows("val")
    runs = all_runs(project.runs_folder)
    now = labels_now(project) if runs else None
    lines = [_ranked_run(project, run, val, now) for run in (runs if len(val) else reversed(runs))]
    for name in project.config.encoder:
        identity = project.identity(name)
        if identity.output_key is not None:
            lines.append(_ranked_encoder(project, identity, val))
    for name, reason in damaged_runs(project.runs_folder).items():
        state = f"damaged: {reason}"
        lines.append(RankedRun(name=name, made_from="-", metrics=None, size_mb=None, state=state, run=None))
    return sorted(lines, key=_Rank(project.config.metric))


def best_run(project: Project) -> Run:
    """The best current run on val, or the newest without val rows; encoders do not count.

    Raises
    ------
    RunError
        There is no current run; the message gives the state of the first runs.
    """
    return _best(project, ranked_runs(project))


def _best(project: Project, ranked: list[RankedRun]) -> Run:
    lines = [line for line in ranked if line.run is not None or line.state.startswith("damaged")]
    for line in lines:
        if line.state == "current":
            return line.run
    if not lines:
        raise RunError(f"no run yet. Run: {to_fuse(project)}")
    reasons = "; ".join(f"{line.name} ({line.state})" for line in lines[:_NAMED])
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    stale = any(line.state.startswith("stale") for line in lines)
    raise RunError(f"no current run: {reasons}{more}. Run: {'mmfeat extract, then: ' if stale else ''}mmfeat fuse")


def selected_model(project: Project, name: str | None) -> tuple[NamedModel, str]:
    """The run or encoder of a name, or the best run without one; and how it was selected.

    An encoder whose linear probe is better on val is not selected, but named.
    """
    if name:
        return find_model(project, name), ""
    ranked = ranked_runs(project)
    best = _best(project, ranked)
    chosen = (
        "the best run on val" if len(project.manifest.rows("val")) else "the newest: there is no val row to select by"
    )
    first = ranked[0]
    if first.run is None and first.metrics is not None and first.state == "current":
        chosen += f" (encoder {first.name} alone is better there)"
    return NamedModel(name=best.name, run=best), chosen


class _Rank:
    """Sort key by a metric: current runs first, without metrics last."""

    def __init__(self, metric: str) -> None:
        self.metric, self.sign = metric, -1.0 if better(metric, 1.0, 0.0) else 1.0

    def __call__(self, line: RankedRun) -> tuple[bool, bool, float]:
        value = 0.0 if line.metrics is None else self.sign * line.metrics.scores.value(self.metric)
        return line.metrics is None, line.state != "current", value


def _ranked_run(project: Project, run: Run, val: np.ndarray, now: np.ndarray) -> RankedRun:
    metrics, state = None, state_of(project, run)
    if len(val) and state.startswith(("current", "stale")):
        try:
            if state != "current" and trained_on_val(project, run.learned()):
                state += f", {TRAINED_ON_VAL}"
            else:
                metrics = metrics_on_val(project, _val_logits(project, run, val, current=state == "current"))
        except MmfeatError as error:
            state = f"{state}; no metrics: {error}" if state != "current" else f"no metrics: {error}"
    return RankedRun(
        name=run.name,
        made_from="+".join(run.made_from),
        metrics=metrics,
        size_mb=run.exported_mb(project.config.heads_scale),
        state=state,
        run=run,
        transductive=bool(run.record.get("transductive", False)),
        val_use=None if metrics is None else run.learned().use_of(project.manifest.ids[val]),
        relabelled=about_relabelled(run, now),
    )


def _val_logits(project: Project, run: Run, val: np.ndarray, *, current: bool) -> np.ndarray:
    """A run's logits of val rows: from its logits.h5 if it is current and the samples have not changed."""
    run = run.in_order_of(project.manifest.classes)
    kept = kept_logits(project, run, val) if current else None
    return (run_logits(project, run, val) if kept is None else kept).logits


def _ranked_encoder(project: Project, identity: Identity, val: np.ndarray) -> RankedRun:
    metrics, use, state = None, None, "current"
    try:
        found = encoder_logits(project, identity, val)
        learned = lineage_of_encoder(project, identity, True)
        if trained_on_val(project, learned):
            state = f"not ranked: {TRAINED_ON_VAL}"
        elif len(val):
            metrics, use = metrics_on_val(project, found.logits), learned.use_of(project.manifest.ids[val])
    except MmfeatError as error:
        state = str(error)
    return RankedRun(
        name=identity.name,
        made_from=identity.model,
        metrics=metrics,
        size_mb=identity.size_mb,
        state=state,
        run=None,
        val_use=use,
    )
