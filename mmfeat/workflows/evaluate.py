"""`mmfeat evaluate`: every figure of some runs on the same rows, a table for each class, and whether two differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.csv_text import csv_text
from mmfeat.common.errors import DataError, RunError
from mmfeat.common.randomness import id_numbers
from mmfeat.inference.fitted_rules import about_fit, rule_for_rows
from mmfeat.inference.logits import logits_of
from mmfeat.inference.next_commands import after_evaluate
from mmfeat.inference.run_ranking import best_run
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.metric_rows import Metrics, metrics_of, outcome_of
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of
from mmfeat.report.outputs import Outputs


@dataclass(frozen=True)
class EvaluateResult:
    """Figures by name, on the same rows.

    Attributes
    ----------
    differences : dict of str to dict of str to (float, float, float)
        By each further name: the first minus it in every figure, by the figure's name in Scores, with the 95 %
        interval of the difference (paired bootstrap).
    decided : str
        What was fitted and on what, where thresholds or temperature are tuned.
    trained : dict of str to list of str
        By name, the ids of the rows that it was trained on.
    n_chosen : dict of str to int
        By name, how many of the rows chose its epochs or rounds.
    n_folded : dict of str to int
        By name, how many of the rows it was trained on in folds: their figures are of heads that never saw them.
    files : list of Path
        One table of classes for each name.
    after : str
        The command to type next.
    """

    split: str
    n_rows: int
    metrics: dict[str, Metrics]
    differences: dict[str, dict[str, tuple[float, float, float]]]
    trained: dict[str, list[str]]
    n_chosen: dict[str, int]
    n_folded: dict[str, int]
    files: list[Path]
    classes: tuple[str, ...]
    decided: str
    after: str


def evaluate(
    project: Project, names: list[str] | None = None, split: str = "val", overwrite: bool = False
) -> EvaluateResult:
    """Score encoders and runs on labelled rows.

    Parameters
    ----------
    names : list of str, optional
        Runs or encoders; the best run, when None.
    split : str
        `val`, `test`, `train`, or `train+val`: all rows that heads in folds have logits of.
    overwrite : bool
        Whether tables of classes that were changed since they were written may be replaced.

    Raises
    ------
    DataError
        The split has no labelled rows.
    RunError
        A name is given twice, or there is no such run.
    OutputError
        A table of classes was changed since it was written.
    """
    manifest = project.manifest
    names = names or [best_run(project).name]
    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(
            f"there are no labelled {split} rows. Set [split] {split} in mmfeat.toml before the first: mmfeat init"
        )
    if len(set(names)) != len(names):
        raise RunError(f"each name once, found: {', '.join(names)}")
    rows = rows[np.argsort(id_numbers(manifest.ids[rows]), kind="stable")]  # an order of their own, for the draws
    outputs, paths = Outputs(project.config, overwrite=overwrite), {name: _file(project, name, split) for name in names}
    for path in paths.values():  # before any work
        outputs.check(path, own=True, earlier=True)
    labels, figures, outcomes, trained, n_chosen, n_folded = manifest.labels[rows], {}, {}, {}, {}, {}
    for name in names:
        logits = logits_of(project, name, rows).logits
        decision = rule_for_rows(project, name, rows)
        figures[name] = metrics_of(labels, logits, decision)
        if len(names) > 1:
            outcomes[name] = outcome_of(logits, decision)
        learned = lineage_of(project, name)
        on, by = learned.among(manifest.ids[rows])
        n_folded[name] = int(learned.is_out_of_fold(manifest.ids[rows]).sum())
        trained[name], n_chosen[name] = manifest.ids[np.sort(rows[on])].tolist(), int(by.sum())
    for name in names:
        outputs.write(paths[name], class_table(figures[name], manifest.classes), own=True, earlier=True)
    differences = {name: paired_bootstrap(labels, outcomes[names[0]], outcomes[name]) for name in names[1:]}
    return EvaluateResult(
        split,
        len(rows),
        figures,
        differences,
        trained,
        n_chosen,
        n_folded,
        list(paths.values()),
        manifest.classes,
        about_fit(project),
        after_evaluate(project, split),
    )


def _file(project: Project, name: str, split: str) -> Path:
    """Where a run's table of classes is."""
    of_encoder = name in project.config.encoder
    return project.runs / (f"evaluation-{name}-{split}.csv" if of_encoder else f"{name}/evaluation-{split}.csv")


def class_table(figures: Metrics, classes: tuple[str, ...]) -> str:
    """CSV text: for each class its positives, F1, precision, recall, average precision and accuracy.

    Figures of a class without a positive among the rows are blank.
    """
    scores = figures.scores
    names = ("f1", "precision", "recall", "ap", "accuracy")
    rows = []
    columns = [getattr(scores, f"class_{name}") for name in names]
    for k, label in enumerate(classes):
        kept = scores.n_positives[k] > 0
        cells = [f"{column[k]:.6f}" if kept and np.isfinite(column[k]) else "" for column in columns]
        rows.append([label, int(scores.n_positives[k]), *cells])
    return csv_text(["class", "n_positives", *names], rows)
