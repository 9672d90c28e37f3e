"""`mmfeat evaluate`: all metrics of runs on the same rows, a table by class, and whether differences are significant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError, RunError
from mmfeat.common.former_arguments import former_arguments
from mmfeat.common.text import counted
from mmfeat.inference.evaluation import evaluated_model, rows_to_score
from mmfeat.inference.honest_choice import HonestChoice, honest_choices
from mmfeat.inference.next_commands import after_evaluate
from mmfeat.inference.run_ranking import best_run
from mmfeat.inference.threshold_report import ThresholdReport
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.project import Project
from mmfeat.project.staleness import about_relabelled, labels_now, named_model
from mmfeat.report.evaluation_table import METRIC_TITLES, class_table
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluateResult(TableResult):
    """Metrics by name, on the same rows.

    Attributes
    ----------
    metrics : dict of str to Metrics
        By run or encoder.
    differences : dict of str to dict of str to (float, float, float)
        For each name after the first: the first minus it in each metric, with the 95 % interval of the difference
        (paired bootstrap). Metrics are named as in `Scores`.
    trained : dict of str to list of str
        For each name, the ids of rows that it was trained on.
    n_selected : dict of str to int
        For each name, how many of the rows selected its epochs or rounds.
    n_out_of_fold : dict of str to int
        For each name, how many of the rows are out of fold: scored by the heads that held them out.
    relabelled : dict of str to str
        For each name, how many rows it learned with other labels than they have now; empty if none.
    files : list of Path
        One table by class for each name.
    thresholds : dict of str to ThresholdReport
        The threshold of each name, and what other settings would gain on val. Empty without val rows.
    honest : list of HonestChoice
        The metric on rows that had no part in the choice, if asked for.
    after : str
        The command to type next.
    """

    split: str
    n_rows: int
    metrics: dict[str, Metrics]
    differences: dict[str, dict[str, tuple[float, float, float]]]
    trained: dict[str, list[str]]
    n_selected: dict[str, int]
    n_out_of_fold: dict[str, int]
    relabelled: dict[str, str]
    files: list[Path]
    classes: tuple[str, ...]
    thresholds: dict[str, ThresholdReport]
    honest: list[HonestChoice]
    after: str

    def _about(self) -> str:
        text = f"Metrics on {counted(self.n_rows, f'{self.split} row')}"
        in_sample = [f"{name} ({counted(len(ids), 'row')})" for name, ids in self.trained.items() if ids]
        text = f"{text}. In-sample: {', '.join(in_sample)}" if in_sample else text
        return "\n".join([text, *(choice.line for choice in self.honest)])

    def _table(self) -> list[Record]:
        return [
            {
                "run": name,
                **{title: getattr(one.scores, key) for key, title in METRIC_TITLES.items()},
                "±": one.half_width,
                "mAP ±": one.map_spread,
                "ECE": one.ece,
            }
            for name, one in self.metrics.items()
        ]


@former_arguments(2, "split", "overwrite")
def evaluate(
    project: Project,
    names: Sequence[str] | None = None,
    *,
    split: str = "val",
    honest: bool = False,
    overwrite: bool = False,
) -> EvaluateResult:
    """Score encoders and runs on labelled rows.

    Parameters
    ----------
    names : sequence of str, optional
        Runs or encoders; the best run, if None.
    split : str
        `val`, `test`, `train`, or `train+val`: all rows of which heads trained in folds have out-of-fold logits.
    honest : bool
        Whether to choose the decision rule, and without names the run, on one half of val and score the other half. The
        selection of epochs on val is not undone.
    overwrite : bool
        Whether to replace tables by class that were changed since they were written.

    Raises
    ------
    ConfigError
        `honest` is asked for on another split than val.
    DataError
        The split has no labelled rows.
    RunError
        A name occurs twice, or there is no such run.
    OutputError
        A table by class was changed since it was written.
    """
    manifest = project.manifest
    if honest and split != "val":
        raise ConfigError(f"--honest is about choices on val: leave out --split {split}")
    given, rows = _different(names or ()), rows_to_score(project, split)
    names = given or [best_run(project).name]
    outputs, paths = Outputs(project.config, overwrite=overwrite), {name: _file(project, name, split) for name in names}
    for path in paths.values():  # before any work
        outputs.check(path, own=True, earlier=True)
    found = {name: evaluated_model(project, name, rows) for name in names}
    for name, one in found.items():
        outputs.write(paths[name], class_table(one.metrics, manifest.classes), own=True, earlier=True)
    labels, first = manifest.labels[rows], found[names[0]].outcome
    return EvaluateResult(
        split=split,
        n_rows=len(rows),
        metrics={name: one.metrics for name, one in found.items()},
        differences={name: paired_bootstrap(labels, first, found[name].outcome) for name in names[1:]},
        trained={name: one.trained for name, one in found.items()},
        n_selected={name: one.n_selected for name, one in found.items()},
        n_out_of_fold={name: one.n_out_of_fold for name, one in found.items()},
        relabelled=_relabelled(project, names),
        files=list(paths.values()),
        classes=manifest.classes,
        thresholds={name: one.threshold for name, one in found.items() if one.threshold is not None},
        honest=honest_choices(project, given) if honest else [],
        after=after_evaluate(project, split, names),
    )


def _different(names: Sequence[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise RunError(f"a name is given twice: {', '.join(names)}")
    return list(names)


def _relabelled(project: Project, names: Sequence[str]) -> dict[str, str]:
    now = labels_now(project)
    return {name: about_relabelled(named_model(project, name), now) for name in names}


def _file(project: Project, name: str, split: str) -> Path:
    """Path of a run's table by class."""
    of_encoder = name in project.config.encoder
    return project.runs_folder / (f"evaluation-{name}-{split}.csv" if of_encoder else f"{name}/evaluation-{split}.csv")
