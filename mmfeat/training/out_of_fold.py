"""Out-of-fold predictions of labelled rows: by a run in folds, found or trained now, and by a linear head on each encoder.

Unimodal predictions are no runs. They are kept in `.mmfeat/`, with everything that they were made from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.files import digest_bytes, digest_json
from mmfeat.common.freed_memory import return_freed_memory
from mmfeat.common.progress import progress, say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.remembered import if_possible
from mmfeat.common.sealed_tensors import read_arrays, write_arrays
from mmfeat.common.text import counted
from mmfeat.data.given_split import NO_FOLD
from mmfeat.heads import head_for, takes
from mmfeat.heads.training.fit_heads import fit_data
from mmfeat.heads.training.fold_heads import FoldFit, fit_folds
from mmfeat.heads.training.head_logits import heads_logits
from mmfeat.inference.logits import RowLogits, kept_logits, run_logits
from mmfeat.project.project import Project
from mmfeat.project.staleness import about_relabelled, is_current, labels_now
from mmfeat.runs.run import Run, all_runs
from mmfeat.store.feature_table import rows_digest
from mmfeat.training.head_folds import Folds
from mmfeat.training.head_plan import HeadPlan

FOLDS = 5  # if neither the project nor its data say otherwise
_HEAD = "linear"  # of unimodal predictions


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedRun:
    """A run in folds.

    Attributes
    ----------
    made : bool
        Whether it was trained by this call.
    """

    run: Run
    made: bool


def folded_run(project: Project, run: Run | None, *, inputs: Sequence[str] | None = None) -> FoldedRun:
    """The run whose logits of all labelled rows are out of fold: `run` itself, another one, or one that is trained now.

    A run that is trained now has the head and the inputs of `run` or, without one, those of mmfeat.toml.

    Parameters
    ----------
    inputs : sequence of str, optional
        The encoders that it reads, if no run says so.

    Raises
    ------
    DataError
        There are fewer rows than folds.
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    RunError
        The head does not take the inputs.
    """
    if run is not None and run.record.get("folds"):
        return FoldedRun(run=run, made=False)
    if run is None and inputs is None and (found := _current_in_folds(project)) is not None:
        return FoldedRun(run=found, made=False)
    plan = HeadPlan.of(in_folds(project).derived(settings=_head_settings(project, run, inputs)))
    found = plan.found()
    if found is not None:
        return FoldedRun(run=found, made=False)
    command = f"mmfeat fuse --head {plan.head} --folds {plan.project.config.fuse.folds}"
    say(f"no run in folds yet: one is trained now, as by {command}")
    made = plan.train()
    return_freed_memory()
    return FoldedRun(run=made, made=made.is_new)


def _head_settings(project: Project, run: Run | None, inputs: Sequence[str] | None) -> dict[str, Any]:
    """The head and the inputs of a run, or those of mmfeat.toml with a head that takes that many inputs."""
    if run is not None and run.kind == "head":
        return {"fuse.head": run.record["head"], "fuse.inputs": run.record["inputs"]}
    inputs, head = list(inputs or project.config.fuse.inputs), project.config.fuse.head
    return {"fuse.head": head if takes(head, len(inputs)) else head_for(len(inputs)), "fuse.inputs": inputs}


def in_folds(project: Project) -> Project:
    """The project with its number of folds, that of the folds in its data, or `FOLDS`."""
    if project.config.fuse.folds:
        return project
    folds = project.manifest.folds
    there = np.unique(folds[fold_rows(project)]) if folds is not None else np.zeros(0)
    given = len(there) if len(there) > 1 and there.min() != NO_FOLD else FOLDS
    return project.derived(settings={"fuse.folds": given})


def fold_rows(project: Project) -> np.ndarray:
    """The labelled train and val rows, in the manifest's order."""
    return np.sort(np.concatenate([project.manifest.rows("train"), project.manifest.rows("val")]))


def _current_in_folds(project: Project) -> Run | None:
    """The newest current run in folds that learned the labels of now and holds out all labelled rows; None without one."""
    rows, now = fold_rows(project), labels_now(project)
    for run in reversed(all_runs(project.runs_folder)):
        if not run.record.get("folds") or run.kind != "head" or not is_current(project, run):
            continue
        if run.learned().is_out_of_fold(project.manifest.ids[rows]).all() and not about_relabelled(run, now):
            return run
    return None


def out_of_fold_logits(project: Project, run: Run) -> RowLogits:
    """Out-of-fold logits of the labelled rows by a run in folds."""
    rows = fold_rows(project)
    kept = kept_logits(project, run.in_order_of(project.manifest.classes), rows)
    return run_logits(project, run, rows) if kept is None else kept


def unimodal_logits(project: Project, names: Sequence[str]) -> dict[str, RowLogits]:
    """Logits of all rows by a linear head on each encoder: out of fold for labelled rows, the mean of the folds for others."""
    project = in_folds(project)
    project = project.derived(settings={"fuse.head": _HEAD, "fuse.seeds": 1})
    folds = Folds(project)
    return {name: _unimodal(project.derived(settings={"fuse.inputs": [name]}), name, folds) for name in names}


def _unimodal(project: Project, name: str, folds: Folds) -> RowLogits:
    plan = HeadPlan.of(project)
    keys = np.where(plan.table.present[name][:, None], plan.table.row_keys[name], 0)
    order = digest_bytes(id_numbers(project.manifest.ids).tobytes())
    made_from = digest_json([plan.fingerprint, rows_digest(project.manifest.ids, keys), order])
    file = project.memory / "audit" / f"{name}.safetensors"
    try:
        arrays, metadata = read_arrays(file)
        if metadata.get("made_from") == made_from:
            return RowLogits(name=name, logits=arrays["logits"].astype(np.float32), known=arrays["known"])
    except (OSError, ValueError, KeyError):
        pass  # it is not there, damaged, or of another version
    found = _trained(plan, name, folds)
    kept = found.logits.astype(np.float16)
    with if_possible():
        write_arrays(file, {"logits": kept, "known": found.known}, {"made_from": made_from})
    return dataclasses.replace(found, logits=kept.astype(np.float32))  # as they will be read


def _trained(plan: HeadPlan, name: str, folds: Folds) -> RowLogits:
    project, rows = plan.project, fold_rows(plan.project)
    device = torch_device(project.config.device)
    data = dataclasses.replace(fit_data(plan.table, [name], device, rows), fold=folds.of_rows(rows))
    config = project.config
    label = f"{name} alone: {counted(folds.k, 'fold')}"
    with progress(label, plan.settings.epochs * folds.k, "epochs") as bar:
        fitted = fit_folds(
            _HEAD, data, plan.settings, [config.seed], metric=config.metric, rule=config.predict, bar=bar
        )
    known = np.asarray(plan.table.present[name])
    logits = np.zeros((project.manifest.n_samples, len(project.manifest.classes)), np.float32)
    logits[rows] = fitted.logits[0]
    others = np.setdiff1d(np.flatnonzero(known), rows)
    if len(others):
        logits[others] = _mean_of_folds(plan, fitted, others, name=name)
    return RowLogits(name=name, logits=logits, known=known)


def _mean_of_folds(plan: HeadPlan, fitted: FoldFit, rows: np.ndarray, *, name: str) -> np.ndarray:
    data = fit_data(plan.table, [name], torch_device(plan.project.config.device), rows)
    return heads_logits([fit.head for fit in fitted.fits], data).mean(0)
