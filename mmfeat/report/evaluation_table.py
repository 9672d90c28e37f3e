"""Several models on the same rows, whether their differences are significant, and one model class by class."""

from __future__ import annotations

import numpy as np

from mmfeat.common.csv_text import csv_text
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.report.table_layout import Table, number, outside, signed, table
from mmfeat.report.text_tables import significance

METRIC_TITLES = {
    "samples_f1": "samples F1",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "map": "mAP",
    "accuracy_per_class": "label accuracy",
    "label_set_accuracy": "subset accuracy",
    "loss": "loss",
}
_MAP = list(METRIC_TITLES).index("map")
Difference = tuple[float, float, float]


def evaluation_table(metrics: dict[str, Metrics], title: str, *, metric: str) -> Table:
    """A row of metrics for each model; `metric` is the project's, which is shown at any width."""
    rows = []
    for name, one in metrics.items():
        cells = [number(getattr(one.scores, key)) for key in METRIC_TITLES]
        cells[0] = number(one.scores.samples_f1, spread=one.half_width)
        cells[_MAP] = number(one.scores.map, spread=one.map_spread)
        rows.append([outside(name), *cells, number(one.ece)])
    keep = METRIC_TITLES[metric.replace("-", "_")]
    return table([title, *METRIC_TITLES.values(), "ECE"], rows, title=title, first="run", keep=[keep])


def difference_table(first: str, differences: dict[str, dict[str, Difference]], *, metric: str) -> Table:
    """The first model minus each other one in every metric, and the significance of the project's metric.

    Parameters
    ----------
    differences : dict of str to dict of str to (float, float, float)
        For each further name, difference and interval of each metric by its name in Scores.
    """
    rows: list[list[str] | str] = []
    key = metric.replace("-", "_")
    for name, found in differences.items():
        rows.append(f"{outside(first)} minus {outside(name)}:")
        for one, title in METRIC_TITLES.items():
            rows.append([title, *map(signed, found[one]), verdict(found, metric) if one == key else ""])
    return table(["difference", "mean", "95 % from", "to"], rows, title="differences", first="metric")


def verdict(differences: dict[str, Difference], metric: str) -> str:
    """`not significant` if the interval of the project's metric includes 0, else `significant`."""
    _, low, high = differences[metric.replace("-", "_")]
    return significance(low, high)


def class_table(metrics: Metrics, classes: tuple[str, ...]) -> str:
    """CSV text: for each class its positives, F1, precision, recall, average precision and accuracy.

    Metrics of a class without a positive among the rows are blank.
    """
    scores = metrics.scores
    names = ("f1", "precision", "recall", "ap", "accuracy")
    rows = []
    columns = [getattr(scores, f"class_{name}") for name in names]
    for k, label in enumerate(classes):
        kept = scores.n_positives[k] > 0
        cells = [f"{column[k]:.6f}" if kept and np.isfinite(column[k]) else "" for column in columns]
        rows.append([label, int(scores.n_positives[k]), *cells])
    return csv_text(["class", "n_positives", *names], rows)
