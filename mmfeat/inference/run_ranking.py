"""`mmfeat runs`: every run and encoder on the current val rows, best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import MmfeatError, RunError
from mmfeat.encoders.resolve import Identity
from mmfeat.heads import head_for
from mmfeat.inference.decisions import metrics_on_val
from mmfeat.inference.logits import encoder_source, run_source
from mmfeat.metrics import better
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of_encoder, state_of, trained_on_val
from mmfeat.runs.run import Run, all_runs, damaged_runs

_NAMED = 3  # runs whose reasons an error gives


@dataclass(frozen=True)
class RankedRun:
    """A line of `mmfeat runs`.

    Attributes
    ----------
    metrics : Metrics or None
        On the val rows of today; None where there are none, or they cannot be had: then `state` says why.
    state : str
        `current`, `stale: ...`, `damaged: ...`, or why it is not ranked.
    run : Run or None
        None for an encoder's own output, and where run.json cannot be read.
    """

    name: str
    made_from: str
    metrics: Metrics | None
    size_mb: float | None
    state: str
    run: Run | None
    transductive: bool = False


def ranked_runs(project: Project) -> list[RankedRun]:
    """Runs and encoders with an output, best on val first (newest first without val rows); those without figures last."""
    val = project.manifest.rows("val")
    runs = all_runs(project.runs)
    lines = [_ranked_run(project, run, val) for run in (runs if len(val) else reversed(runs))]
    for name in project.config.encoder:
        identity = project.identity(name)
        if identity.output_key is not None:
            lines.append(_ranked_encoder(project, identity, val))
    for name, reason in damaged_runs(project.runs).items():
        lines.append(RankedRun(name, "-", None, None, f"damaged: {reason}", None))
    return sorted(lines, key=_rank(project.config.metric))


def best_run(project: Project) -> Run:
    """The best current run on val, or the newest without val rows; an encoder's own output is not a run.

    Raises
    ------
    RunError
        There is none; the message says what is wrong with those there are.
    """
    lines = [line for line in ranked_runs(project) if line.run is not None or line.state.startswith("damaged")]
    for line in lines:
        if line.state == "current":
            return line.run
    if not lines:
        raise RunError(f"no run yet. Run: mmfeat fuse --head {head_for(len(project.config.fuse.inputs))}")
    reasons = "; ".join(f"{line.name} ({line.state})" for line in lines[:_NAMED])
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    stale = any(line.state.startswith("stale") for line in lines)
    raise RunError(
        f"no run that can be chosen: {reasons}{more}. Run: {'mmfeat extract, then: ' if stale else ''}mmfeat fuse"
    )


def _rank(metric: str):
    sign = -1.0 if better(metric, 1.0, 0.0) else 1.0

    def key(line: RankedRun) -> tuple[bool, bool, float]:
        value = 0.0 if line.metrics is None else sign * line.metrics.scores.value(metric)
        return line.metrics is None, line.state != "current", value

    return key


def _ranked_run(project: Project, run: Run, val: np.ndarray) -> RankedRun:
    figures, state = None, state_of(project, run)
    if len(val) and state.startswith(("current", "stale")):
        try:
            if state != "current" and trained_on_val(project, run.learned()):
                state += ", trained on rows that are val today"
            else:
                figures = metrics_on_val(project, run_source(project, run, val).logits)
        except MmfeatError as error:
            state = f"{state}; no figures: {error}" if state != "current" else f"no figures: {error}"
    parts = [m["name"] for m in run.record["members"]] or list(run.encoders)
    return RankedRun(
        run.name, "+".join(parts), figures, run.size_mb, state, run, bool(run.record.get("transductive", False))
    )


def _ranked_encoder(project: Project, identity: Identity, val: np.ndarray) -> RankedRun:
    figures, state = None, "current"
    try:
        source = encoder_source(project, identity, val)
        if trained_on_val(project, lineage_of_encoder(project, identity, True)):
            state = "not ranked: trained on rows that are val today"
        elif len(val):
            figures = metrics_on_val(project, source.logits)
    except MmfeatError as error:
        state = str(error)
    return RankedRun(identity.name, identity.model, figures, identity.size_mb, state, None)
