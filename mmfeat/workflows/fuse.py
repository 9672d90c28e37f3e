"""`mmfeat fuse`: train a head on cached features over several seeds, and compare it with cheap baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfeat.common.freed_memory import return_freed_memory
from mmfeat.common.lineage import RowUse
from mmfeat.inference.baselines import baselines
from mmfeat.inference.next_commands import after_fuse, cached_apart_from_inputs
from mmfeat.inference.run_result import RunResult, check_naming, to_name
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.result import Record, metric_records
from mmfeat.report.selection_notes import about_selection
from mmfeat.runs.run import Run
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.training.head_folds import Labelled, labelled_metrics
from mmfeat.training.head_plan import HeadPlan
from mmfeat.training.head_training import describe, head_lines, run_threshold


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
    plan = HeadPlan.of(project, from_run)
    project = plan.project
    chosen = project.config.origins.get("fuse.inputs") == "option"
    run = plan.found()
    check_naming(project, naming, run)
    lines, kept = baselines(project, list(plan.identities), {} if run is None else run.record.get("baselines", {}))
    return_freed_memory()
    if run is None:
        run = plan.train(naming, baselines=kept)
        return_freed_memory()
    return FuseResult(
        run=run,
        lines=[*lines, *(plan.start.lines(project) if plan.start else []), *head_lines(project, run)],
        labelled=labelled_metrics(project, run) if plan.folds else None,
        made=run.is_new,
        threshold=run_threshold(project, run),
        description=describe(run),
        n_train=len(plan.table.rows("train")),
        n_val=len(plan.table.rows("val")),
        idle=[] if chosen else cached_apart_from_inputs(project, plan.rows),
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
