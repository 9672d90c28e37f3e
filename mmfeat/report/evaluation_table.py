"""Several models on the same rows, and whether their differences are significant."""

from __future__ import annotations

from mmfeat.metrics.metric_rows import Metrics
from mmfeat.report.text_tables import shown, significance, table

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


def evaluation_table(
    metrics: dict[str, Metrics], differences: dict[str, dict[str, Difference]], title: str, *, metric: str
) -> str:
    """A row of metrics for each model, then the differences of the first model from the others and their significance.

    Parameters
    ----------
    differences : dict of str to dict of str to (float, float, float)
        For each further name, difference and interval of each metric by its name in Scores.
    metric : str
        The project's metric, whose significance is shown.
    """
    rows = []
    for name, one in metrics.items():
        cells = [f"{getattr(one.scores, key):.3f}" for key in METRIC_TITLES]
        cells[0] += f" ± {one.half_width:.3f}"
        cells[_MAP] += f" ± {one.map_spread:.3f}"
        rows.append([shown(name), *cells, f"{one.ece:.3f}"])
    for name, found in differences.items():
        label = "difference" if len(differences) == 1 else f"difference from {shown(name)}"
        rows.append([label, *(_signed(found[key][0]) for key in METRIC_TITLES)])
        intervals = [f"[{_signed(found[key][1])}, {_signed(found[key][2])}]" for key in METRIC_TITLES]
        rows.append(["95 % interval", *intervals, "", verdict(found, metric)])
    return table([title, *METRIC_TITLES.values(), "ECE"], rows)


def verdict(differences: dict[str, Difference], metric: str) -> str:
    """`samples F1: not significant` if the interval of the project's metric includes 0, else `samples F1: significant`."""
    key = metric.replace("-", "_")
    _, low, high = differences[key]
    return f"{METRIC_TITLES[key]}: {significance(low, high)}"


def _signed(value: float) -> str:
    """Four digits and the sign, since differences are small."""
    return f"{value:+.4f}"
