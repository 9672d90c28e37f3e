"""`mmfeat fuse`: train a head on cached arrays, over several seeds, beside its cheap baselines."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.common.devices import torch_device
from mmfeat.common.freed_memory import return_freed_memory
from mmfeat.heads.training.fit_heads import fit_data
from mmfeat.inference.baselines import baselines
from mmfeat.inference.next_commands import after_fuse
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.runs.run import Run, already_made
from mmfeat.training.head_folds import Folds, Labelled, labelled_metrics
from mmfeat.training.head_runs import TrainedHeads, save_head_run
from mmfeat.training.head_training import (
    describe,
    fit_seeds,
    head_fingerprint,
    head_inputs,
    head_lines,
    resolved_config,
)


@dataclass(frozen=True)
class FuseResult:
    """A run and the table that goes with it.

    Attributes
    ----------
    lines : list of MetricRow
        On val; baselines first, the last is what predicts. Empty without val rows.
    labelled : Labelled or None
        On all labelled rows, where heads were trained in folds.
    made : bool
        False where exactly this run was there already.
    after : str
        The command to type next.
    """

    run: Run
    lines: list[MetricRow]
    labelled: Labelled | None
    made: bool
    description: str
    n_train: int
    n_val: int
    after: str


def fuse(project: Project, head: str | None = None) -> FuseResult:
    """Train the project's head, or the named one, on cached embeddings.

    The run records the settings that it was made with: `fuse.head` is the head that was named.

    Raises
    ------
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    DataError
        There are no labelled rows to train on.
    ConfigError
        There is no such head.
    RunError
        The head does not take these inputs.
    """
    project = project.derived(settings={"fuse.head": head})
    config, head = project.config, project.config.fuse.head
    identities, table, rows = head_inputs(project, heads=[head])
    settings = resolved_config(project, head, identities, table)
    folds = Folds(project) if config.fuse.folds else None
    more = folds.made_from() if folds else {}
    fingerprint = head_fingerprint(project, "head", head, settings=settings, identities=identities, table=table, **more)
    run = already_made(project.runs, fingerprint)
    made = run is None
    lines, kept = baselines(project, list(identities), {} if made else run.record.get("baselines", {}))
    return_freed_memory()
    if made:  # in a function of its own: what training held is free before the run is scored

        def train() -> Run:
            data = fit_data(table, list(identities), torch_device(config.device), rows)
            if folds:
                trained = folds.train(head, data, settings, rows)
            else:
                trained = TrainedHeads.on_train(fit_seeds(project, head, data, settings), data, table.ids[rows])
            more = {"baselines": kept}
            return save_head_run(
                project,
                head,
                head,
                settings=settings,
                identities=identities,
                table=table,
                trained=trained,
                data=data,
                rows=rows,
                fingerprint=fingerprint,
                more=more,
            )

        run = train()
        return_freed_memory()
    lines += head_lines(project, run)
    n_train, n_val = len(table.rows("train")), len(table.rows("val"))
    labelled = labelled_metrics(project, run) if folds else None
    return FuseResult(run, lines, labelled, made, describe(run), n_train, n_val, after_fuse(project, run))
