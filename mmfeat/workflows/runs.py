"""`mmfeat runs`: every run and encoder on the val rows of today, best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.errors import MmfeatError, RunError
from mmfeat.metrics import better
from mmfeat.models.figures import Figures, figures_of
from mmfeat.models.runs import ROLES, Run, all_runs
from mmfeat.workflows.project import Project
from mmfeat.workflows.scoring import encoder_source, is_current, run_source


@dataclass(frozen=True)
class RankedRun:
    """A line of `mmfeat runs`.

    Attributes
    ----------
    figures : Figures or None
        On the val rows of today; None where they cannot be had, and then `state` says why.
    state : str
        `current`, `stale: ...`, or why it is not ranked.
    run : Run or None
        None for an encoder's own output.
    """

    name: str
    made_from: str
    figures: Figures | None
    size_mb: float
    state: str
    run: Run | None
    transductive: bool = False


def ranked_runs(project: Project) -> list[RankedRun]:
    """Runs and encoders with an output, best on val first; those without figures last."""
    manifest = project.manifest
    val = manifest.rows("val")
    lines = [_ranked_run(project, run, val) for run in all_runs(project.runs)]
    for name in project.config.encoder:
        identity = project.identity(name)
        if identity.output_key is None:
            continue
        try:
            logits = encoder_source(project, identity, val).logits[val]
            figures, state = figures_of(manifest.labels[val], logits, project.config.predict), "current"
        except MmfeatError as error:
            figures, state = None, str(error)
        lines.append(RankedRun(name, identity.model, figures, identity.size_mb, state, None))
    return sorted(lines, key=_rank(project.config.metric))


def best_run(project: Project) -> Run:
    """The best current run on val; an encoder's own output is not a run.

    Raises
    ------
    RunError
        There is none, or there are no val rows to choose by.
    """
    ranked = [line for line in ranked_runs(project) if line.run is not None and line.state == "current"]
    if ranked and ranked[0].figures is not None:
        return ranked[0].run
    if ranked:
        return max((line.run for line in ranked), key=lambda run: run.record["created"])
    if all_runs(project.runs):
        raise RunError(
            "every run is stale: encoders or classes have changed since. Run: mmfeat extract, then: mmfeat fuse"
        )
    raise RunError("no run yet. Run: mmfeat fuse --head crossattn")


def _rank(metric: str):
    sign = -1.0 if better(metric, 1.0, 0.0) else 1.0

    def key(line: RankedRun) -> tuple[bool, bool, float]:
        if line.figures is None:
            return True, True, 0.0
        return line.state != "current", False, sign * line.figures.scores.value(metric)

    return key


def _ranked_run(project: Project, run: Run, val: np.ndarray) -> RankedRun:
    figures, state = None, "current" if is_current(project, run) else "stale: encoders or classes have changed"
    if len(val):
        try:
            trained = run.logits()
            on = trained.ids[np.isin(trained.roles, (ROLES["train"], ROLES["pseudo-labelled"]))]
            if np.isin(project.manifest.ids[val].astype(str), on.astype(str)).any():
                state = "not ranked: trained on rows that are val today"
            else:
                logits = run_source(project, run, val).logits[val]
                figures = figures_of(project.manifest.labels[val], logits, project.config.predict)
        except MmfeatError as error:
            state = f"no figures: {error}"
    parts = [m["name"] for m in run.record["members"]] or list(run.encoders)
    return RankedRun(
        run.name, "+".join(parts), figures, run.size_mb, state, run, bool(run.record.get("transductive", False))
    )
