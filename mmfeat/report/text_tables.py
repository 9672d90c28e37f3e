"""Tables and sentences about metrics, decisions and weights. Control characters of outside text are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.common.text import counted, shown
from mmfeat.metrics.thresholds import tuned_metric
from mmfeat.report.table_layout import Cell, Table, Unshown, number, outside, table

if TYPE_CHECKING:
    from mmfeat.metrics.decision_rule import DecisionRule
    from mmfeat.metrics.metric_rows import MetricRow


MOST_FREQUENT = "most frequent"  # the baseline's row
_METRICS = {"samples-f1": "samples F1", "macro-f1": "macro F1", "map": "mAP"}  # in every table
_OTHERS = {"micro-f1": "micro F1", "loss": "loss"}  # in a table if it is the project's metric


def metric_title(metric: str) -> str:
    """The column title of a metric of mmfeat.toml or of a field of `Scores`, such as `samples F1`."""
    return (_METRICS | _OTHERS)[metric.replace("_", "-")]


def metric_header(metric: str = "", lines: Sequence[MetricRow] = ()) -> list[str]:
    """Titles of the metric columns: three in every table, and the project's metric if it is another one.

    If the threshold of some line is not 0.5, a column `at 0.5` has what an F1 would be there: the project's metric, or
    samples F1 if that does not depend on a threshold. JSON has every metric.
    """
    titles = [*_METRICS.values(), *(title if name == metric else Unshown(title) for name, title in _OTHERS.items())]
    return [*titles, *([f"{metric_title(tuned_metric(metric))} at 0.5"] if _differs(lines) else [])]


def metric_cells(line: MetricRow, metric: str = "", lines: Sequence[MetricRow] = ()) -> list[str]:
    """The cells below :func:`metric_header`."""
    cells = [metric_cell(line, name) for name in (*_METRICS, *_OTHERS)]
    return [*cells, *([number(line.at_half[tuned_metric(metric).replace("-", "_")])] if _differs(lines) else [])]


def metric_cell(line: MetricRow, metric: str, digits: int = 3) -> Cell:
    """The cell of one metric, named as in :func:`metric_title`: samples F1 and mAP have their ± in every table."""
    name = metric.replace("-", "_")
    spread = {"samples_f1": line.spread, "map": line.map_spread}.get(name)
    return number(getattr(line, name), digits, spread=spread)


def _differs(lines: Sequence[MetricRow]) -> bool:
    """Whether the threshold of some line is not 0.5."""
    return any(line.at_half[name] != getattr(line, name) for line in lines for name in line.at_half)


def metric_table(title: str, lines: Sequence[MetricRow], metric: str = "") -> Table:
    """Metrics of several models on the same rows, which `title` names."""
    timed = any(line.seconds is not None for line in lines)
    head = [title, *metric_header(metric, lines), *(["seconds"] if timed else [])]
    rows = []
    for line in lines:
        cells = [outside(line.label), *metric_cells(line, metric, lines)]
        if timed:
            cells.append(number(line.seconds, 1, unknown=""))
        rows.append([*cells, line.note])
    return table(head, rows, title=title, first="model", keep=[metric_title(metric or "samples-f1")])


def about_decision(decision: DecisionRule, fitted: str = "") -> str:
    """Threshold and temperature in a few words, and the rows that they were fitted on, if any."""
    threshold = decision.threshold
    if isinstance(threshold, np.ndarray):
        text = f"thresholds by class from {threshold.min():.3f} to {threshold.max():.3f}"
    else:
        text = f"threshold {threshold:.4g}"
    if decision.temperature != 1.0:
        text += f", temperature {decision.temperature:.4g}"
    return f"{text} ({fitted})" if fitted else text


def about_metrics(line: MetricRow, rows: str, seeds: bool = False) -> str:
    """The text below a table of metrics: the meaning of ±, the use of the rows, classes left out or never predicted.

    Parameters
    ----------
    line : MetricRow
        The last line of the table.
    rows : str
        A clause about the rows, such as `epochs were selected on these rows`.
    seeds : bool
        Whether the table has a row over seeds.
    """
    spread = about_spread("one seed" if seeds else "")
    return "\n".join(filter(None, [f"{spread}; {rows}.", left_out(line.n_left_out), never_predicted(line)]))


def about_spread(over_seeds: str = "") -> str:
    """The meaning of ± in every table; `over_seeds` names a row or a column of standard deviations over seeds, if any."""
    seeds = f" ({over_seeds}: standard deviation over seeds)" if over_seeds else ""
    return f"± is half the 95 % interval over rows{seeds}"


def never_predicted(line: MetricRow) -> str:
    """A sentence about classes that no row is given. Empty if there are none."""
    n = line.never_predicted
    what = (
        f"{counted(n, 'class', 'classes')} with a positive among these rows {'is' if n == 1 else 'are'} never predicted"
    )
    return f"{what} by {shown(line.label)}. What helps rare classes: docs/decisions.md" if n else ""


def left_out(n: int) -> str:
    """A sentence about the classes that macro averages leave out. Empty if there are none."""
    what = f"{counted(n, 'class', 'classes')} without a positive among these rows"
    return f"{what} {'is' if n == 1 else 'are'} left out of macro F1 and mAP." if n else ""


def significance(low: float, high: float) -> str:
    """Whether a difference with this 95 % interval is significant: `not significant` if the interval includes 0."""
    return "not significant" if low <= 0 <= high else "significant"


def weight_table(members: Sequence[dict[str, Any]], bias: Sequence[float] | None, classes: Sequence[str]) -> Table:
    """The weights of an ensemble's members; for weights per class their mean, lowest and highest."""
    lines = [(m["name"], m["weight"]) for m in members] + ([("intercept", bias)] if bias is not None else [])
    if all(isinstance(weight, int | float) for _, weight in lines):
        return table(
            ["member", "weight"], [[outside(name), number(weight, 2)] for name, weight in lines], title="weights"
        )
    rows = []
    for name, weight in lines:
        low, high = (pick(range(len(classes)), key=weight.__getitem__) for pick in (min, max))
        ends = [Cell(f"{weight[k]:.2f} {shown(repr(classes[k]), 30)}", [weight[k], classes[k]]) for k in (low, high)]
        mean = sum(weight) / len(weight)
        rows.append([outside(name), number(mean, 2), *ends, *(Cell("", w) for w in weight)])
    head = ["member", "mean weight", "lowest, of class", "highest, of class", *(Unshown(name) for name in classes)]
    return table(head, rows, title="weights")


def about_fit(fitted: dict[str, Any], gain: tuple[float, float, float] | None) -> str:
    """The rows that an ensemble's weights were fitted on, and the gain over the plain mean.

    Parameters
    ----------
    fitted : dict
        `fitted` of run.json.
    gain : (float, float, float) or None
        Gain in samples F1, and its 95 % interval.
    """
    counts = [f"{fitted[key]:,} {which}" for which, key in (("val", "n_val"), ("train", "n_train")) if fitted[key]]
    by = "lowest loss" if fitted["metric"] == "loss" else f"best {fitted['metric']}"
    text = f"Weights fitted for the {by} on {' and '.join(counts)} rows"
    if gain is None:
        return f"{text}."
    difference, low, high = gain
    return (
        f"{text}; the ensemble's metrics are cross-fitted in {fitted['folds']} folds.\n"
        f"samples F1, ensemble minus mean: {difference:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]: {significance(low, high)}"
    )
