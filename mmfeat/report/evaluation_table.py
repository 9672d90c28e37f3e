"""Several models on the same rows, and whether what they differ by is more than chance."""

from __future__ import annotations

from mmfeat.metrics.metric_rows import Metrics
from mmfeat.report.text_tables import chance, shown, table

_COLUMNS = {
    "samples_f1": "samples-F1",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "map": "mAP",
    "accuracy_per_class": "accuracy per class",
    "label_set_accuracy": "whole sets right",
    "loss": "loss",
}
Difference = tuple[float, float, float]


def evaluation_table(
    figures: dict[str, Metrics], differences: dict[str, dict[str, Difference]], title: str, metric: str
) -> str:
    """A line of figures for each name; then for each further one the difference of the first from it, and a verdict.

    Parameters
    ----------
    differences : dict of str to dict of str to (float, float, float)
        By further name: difference and interval of each figure, by its name in Scores.
    metric : str
        The project's: what the verdict is on.
    """
    rows = []
    for name, one in figures.items():
        cells = [f"{getattr(one.scores, key):.3f}" for key in _COLUMNS]
        cells[0] += f" ± {one.half_width:.3f}"
        rows.append([shown(name), *cells, f"{one.ece:.3f}"])
    for name, found in differences.items():
        label = "difference" if len(differences) == 1 else f"difference from {shown(name)}"
        rows.append([label, *(_signed(found[key][0]) for key in _COLUMNS)])
        intervals = [f"[{_signed(found[key][1])}, {_signed(found[key][2])}]" for key in _COLUMNS]
        rows.append(["95 % interval", *intervals, "", verdict(found, metric)])
    return table([title, *_COLUMNS.values(), "ECE"], rows)


def verdict(differences: dict[str, Difference], metric: str) -> str:
    """`samples-F1: no more than chance`, where the interval of the project's metric holds nought; else `more than chance`."""
    key = metric.replace("-", "_")
    _, low, high = differences[key]
    return f"{_COLUMNS[key]}: {chance(low, high)}"


def _signed(value: float) -> str:
    """With its sign, and four digits, since differences are small."""
    return f"{value:+.4f}"
