"""`mmfeat fuse`: train a head on cached features over several seeds, and compare it with cheap baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.freed_memory import return_freed_memory
from mmfeat.common.lineage import RowUse
from mmfeat.encoders.resolve import Identity
from mmfeat.heads.training.fit_heads import fit_data
from mmfeat.inference.baselines import baselines
from mmfeat.inference.next_commands import after_fuse, cached_apart_from_inputs
from mmfeat.inference.run_result import RunResult, check_naming, to_name
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.result import Record, metric_records
from mmfeat.report.selection_notes import about_selection
from mmfeat.runs.run import Run, already_made
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.head_folds import Folds, Labelled, labelled_metrics
from mmfeat.training.head_runs import TrainedHeads, save_head_run
from mmfeat.training.head_start import HeadStart
from mmfeat.training.head_training import (
    describe,
    fit_seeds,
    head_fingerprint,
    head_inputs,
    head_lines,
    resolved_config,
    run_threshold,
)


@dataclass(frozen=True, kw_only=True, repr=False)
class FuseResult(RunResult):
    """A run with one head.

    Attributes
    ----------
    lines : list of MetricRow
        Metrics on val: baselines, the run that the heads start from, the heads. The last row is used for predictions. Empty
        without val rows.
    labelled : Labelled or None
        Out-of-fold metrics on all labelled rows. None without folds.
    description : str
        A short description of the head.
    idle : list of str
        Encoders that are cached and not among the inputs; empty if the inputs were given as an option.
    after : str
        The command to type next.
    selection : str
        A clause about what was selected on the val rows.
    """

    lines: Sequence[MetricRow]
    labelled: Labelled | None
    description: str
    n_train: int
    n_val: int
    idle: list[str]
    after: str
    selection: str

    @property
    def about_idle(self) -> str:
        """A line about cached encoders that the head does not read; empty without any."""
        if not self.idle:
            return ""
        inputs = ",".join([*self.run.record["inputs"], *self.idle])
        return f"Cached, but not among the inputs: {', '.join(self.idle)}. To use all: --inputs {inputs}"

    def _about(self) -> str:
        return "\n".join(filter(None, [f"{super()._about()}: {self.description}", self.about_idle]))

    def _table(self) -> list[Record]:
        return metric_records(self.lines)


def fuse(
    project: Project, head: str | None = None, *, from_run: str | None = None, naming: Naming = NO_NAME
) -> FuseResult:
    """Train the project's head, or the named one, on cached embeddings.

    Parameters
    ----------
    head : str, optional
        Overrides `fuse.head` of mmfeat.toml. The run records it.
    from_run : str, optional
        The name of a run whose weights the heads start from. It determines the head, its inputs and its network.
    naming : Naming
        The name and the note of the run, if it is made now.

    Raises
    ------
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    DataError
        There are no labelled rows to train on.
    ConfigError
        There is no such head.
    RunError
        The head does not take these inputs, the name cannot be used, or heads cannot start from the run.
    """
    project = project.derived(settings={"fuse.head": head})
    start = None if from_run is None else HeadStart.of(project, from_run)
    project = project if start is None else start.project(project)
    head = project.config.fuse.head
    identities, table, rows = head_inputs(project, heads=[head])
    settings = resolved_config(project, head, identities, table)
    settings = settings if start is None else start.settings(project, settings, table)
    folds = Folds(project) if project.config.fuse.folds else None
    more = (folds.made_from() if folds else {}) | (start.made_from if start else {})
    chosen = project.config.origins.get("fuse.inputs") == "option"
    fingerprint = head_fingerprint(project, "head", head, settings=settings, identities=identities, table=table, **more)
    run = already_made(project.runs_folder, fingerprint)
    check_naming(project, naming, run)
    lines, kept = baselines(project, list(identities), {} if run is None else run.record.get("baselines", {}))
    return_freed_memory()
    if run is None:
        inputs = _Inputs(head=head, settings=settings, identities=identities, table=table, rows=rows, start=start)
        run = _train(project, inputs, folds, fingerprint=fingerprint, naming=naming, baselines=kept)
        return_freed_memory()
    return FuseResult(
        run=run,
        lines=[*lines, *(start.lines(project) if start else []), *head_lines(project, run)],
        labelled=labelled_metrics(project, run) if folds else None,
        made=run.is_new,
        threshold=run_threshold(project, run),
        description=describe(run),
        n_train=len(table.rows("train")),
        n_val=len(table.rows("val")),
        idle=[] if chosen else cached_apart_from_inputs(project, rows),
        after=to_name(run, naming) or after_fuse(project, run),
        selection=_selection(project, run),
    )


def _selection(project: Project, run: Run) -> str:
    """A clause about what was selected on the val rows: epochs of the baselines, and of heads without folds."""
    if not run.record.get("folds"):
        return about_selection({run.name: _val_use(project, run)})
    encoders = ", those of its encoders on these rows" if _val_use(project, run).n_selected else ""
    return f"{run.record['head']}: out of fold, epochs selected on the other folds{encoders}"


def _val_use(project: Project, run: Run) -> RowUse:
    manifest = project.manifest
    return run.learned().use_of(manifest.ids[manifest.rows("val")])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Inputs:
    """The inputs of a head; `rows` are the rows of the manifest that are read."""

    head: str
    settings: Any
    identities: dict[str, Identity]
    table: FeatureTable
    rows: np.ndarray
    start: HeadStart | None


def _train(
    project: Project, inputs: _Inputs, folds: Folds | None, *, fingerprint: str, naming: Naming, baselines: Any
) -> Run:
    """Train the head and save the run. Training's memory is free when this returns."""
    head, settings, rows, start = inputs.head, inputs.settings, inputs.rows, inputs.start
    data = fit_data(inputs.table, list(inputs.identities), torch_device(project.config.device), rows)
    if folds:
        trained = folds.train(head, data, settings, rows)
    else:
        weights = start.weights(project.config.fuse.seeds) if start else ()
        trained = TrainedHeads.on_train(fit_seeds(project, head, data, settings, weights), data, inputs.table.ids[rows])
    if start:  # its rows are rows of the new heads
        trained = dataclasses.replace(trained, learned=trained.learned | start.run.learned())
    return save_head_run(
        project,
        head,
        head,
        settings=settings,
        identities=inputs.identities,
        table=inputs.table,
        trained=trained,
        data=data,
        rows=rows,
        fingerprint=fingerprint,
        naming=naming,
        more={"baselines": baselines, **(start.record if start else {})},
    )
