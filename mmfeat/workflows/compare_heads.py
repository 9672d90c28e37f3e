"""`mmfeat compare heads`: heads on the project's inputs and the paper's models (P18), on the same val rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfeat.common.text import counted
from mmfeat.config.schema import RECIPES
from mmfeat.heads import HEADS, head_for
from mmfeat.inference.fitted_rules import crossfitted_rule, fitted_rule, required_val
from mmfeat.inference.next_commands import RUNS, with_options
from mmfeat.project.project import Project
from mmfeat.project.staleness import state_of
from mmfeat.report.comparison_layouts import head_layout
from mmfeat.runs.comparison import ScoredModel, Scoring, score_models
from mmfeat.runs.ensembles import RECIPE_HEADS
from mmfeat.runs.run import all_runs
from mmfeat.training.comparison_result import ComparisonResult, write_comparison
from mmfeat.training.head_comparison import HeadComparison, heads_to_train
from mmfeat.training.head_training import trained_head


@dataclass(frozen=True, kw_only=True, repr=False)
class CompareResult(ComparisonResult):
    """Heads, encoders and their means on the same val rows.

    Attributes
    ----------
    after : str
        The command to type next.
    """

    after: str


def compare_heads(project: Project, names: Sequence[str] | None = None, *, overwrite: bool = False) -> CompareResult:
    """Train the named heads, or all that take the project's inputs, and compare them with encoders and means.

    Nothing that the project uses changes: the comparison is written to `comparisons/`. Heads that were compared before are
    not trained again, so an interrupted comparison continues. They are shown even if other heads are named.

    Parameters
    ----------
    overwrite : bool
        Whether tables and plots that were changed since they were written may be replaced.

    Raises
    ------
    DataError
        There are no val rows to compare on.
    RunError
        There is no such head, or it does not take the inputs.
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    """
    heads = heads_to_train(project, names)
    val = required_val(project, "rows to compare on")
    work, metric = HeadComparison(project), project.config.metric
    candidates, failed = work.candidates(heads)
    scoring = Scoring(
        labels=project.manifest.labels[val],
        numbers=work.folder.numbers,
        metric=metric,
        rule_of=lambda logits: crossfitted_rule(project, val, logits),
        intervals=("macro_f1", "loss"),
        train_labels=project.manifest.labels[work.sample],
        shipped_rule_of=lambda logits: fitted_rule(project, val, logits),
    )
    models, baselines, title = score_models(candidates, scoring), work.baselines(), counted(len(val), "val row")
    fields = write_comparison(
        project,
        work.folder,
        models,
        title=title,
        baselines=baselines,
        layout=head_layout(title, models, baselines, metric),
        failed=failed,
        overwrite=overwrite,
    )
    return CompareResult(**fields, after=_next_command(project, models))


def _next_command(project: Project, models: list[ScoredModel]) -> str:
    """Train the best head, the head of the best ensemble, or else the default head; then make that ensemble; then `runs`."""
    best = next(model for model in models if model.is_best)
    head = RECIPE_HEADS.get(best.name, best.name)
    head = head if head in HEADS else head_for(len(project.config.fuse.inputs))
    command = f"mmfeat fuse --head {head}"
    if trained_head(project, head):
        made = {
            run.record.get("recipe") for run in all_runs(project.runs_folder) if state_of(project, run) == "current"
        }
        command = f"mmfeat ensemble {best.name}" if best.name in RECIPES and best.name not in made else RUNS
    return with_options(project.config, command)
