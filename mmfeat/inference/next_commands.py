"""The command to type next: one that works in the project's present state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.config.schema import HEAD, HEAD_ALONE
from mmfeat.inference.logits import probe_table
from mmfeat.project.project import Project
from mmfeat.project.staleness import state_of
from mmfeat.runs.ensembles import RECIPE_HEADS
from mmfeat.runs.run import Run, all_runs

if TYPE_CHECKING:
    from mmfeat.inference.run_ranking import RankedRun


def after_fuse(project: Project, run: Run) -> str:
    """The mean of the encoders' logits and the run's, if the encoders have linear probes; else `mmfeat runs`."""
    config, manifest = project.config, project.manifest
    if (
        run.record["head"] not in RECIPE_HEADS.values()
        or len(run.encoders) != 2
        or config.origins.get("fuse.inputs") == "option"
    ):
        return "mmfeat runs"
    rows = np.concatenate([manifest.rows("val"), manifest.rows("unlabelled")])
    try:
        for name in run.encoders:
            probe_table(project, project.identity(name), rows)
    except MmfeatError:
        return "mmfeat runs"
    return f"mmfeat ensemble {' '.join(run.encoders)} {run.name}" if len(rows) else "mmfeat runs"


def after_runs(project: Project, ranked: list[RankedRun]) -> str:
    """Compare the best two; without val rows predict; without a run train a head."""
    current = [line for line in ranked if line.run is not None and line.state == "current"]
    scored = [line.name for line in current if line.metrics is not None]
    if scored:
        return f"mmfeat evaluate {' '.join(scored[:2])}"
    if current:
        return to_predict(project) or f"mmfeat predict {current[0].name} --split all"
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    return to_fuse(project) if _cached(project, rows) else "mmfeat extract"


def after_evaluate(project: Project, split: str) -> str:
    """Self-training if there are unlabelled rows to learn from; predictions after a test."""
    from mmfeat.heads import takes  # imports torch

    manifest, config = project.manifest, project.config
    rows = np.concatenate([manifest.rows(which) for which in ("train", "val", "unlabelled")])
    learnable = (manifest.split[manifest.rows("unlabelled")] == "train").any() and len(manifest.rows("val"))
    if split != "test" and learnable and takes(config.fuse.head, len(config.fuse.inputs)):
        return "mmfeat selftrain --rounds 5" if _cached(project, rows) else "mmfeat extract"
    return to_predict(project) or "mmfeat runs"


def to_fuse(project: Project) -> str:
    """`mmfeat fuse` with a head that takes the project's encoders."""
    return f"mmfeat fuse --head {HEAD if len(project.config.fuse.inputs) > 1 else HEAD_ALONE}"


def to_predict(project: Project) -> str:
    """`mmfeat predict`; empty without unlabelled rows or a current run."""
    rows = project.manifest.rows("unlabelled")
    if not len(rows) or not any(state_of(project, run) == "current" for run in all_runs(project.runs_folder)):
        return ""
    return "mmfeat predict" if _cached(project, rows) else "mmfeat extract"


def _cached(project: Project, rows: np.ndarray) -> bool:
    """Whether the store has the embeddings of rows by all encoders of `fuse.inputs`."""
    try:
        project.table(list(project.config.fuse.inputs), rows)
    except MmfeatError:
        return False
    return True
