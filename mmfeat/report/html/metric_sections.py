"""Sections of a report about metrics: models beside baselines, and one model class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfeat.common.text import counted
from mmfeat.metrics.calibration import reliability
from mmfeat.metrics.curves import precision_recall
from mmfeat.metrics.metric_rows import MetricRow, Metrics
from mmfeat.report.html.blocks import Block, Columns, Curves, Figure, Heading, PageTable, Section, Text
from mmfeat.report.html.rendering import figure
from mmfeat.report.html.svg_axes import rounded_range
from mmfeat.report.html.svg_charts import (
    Line,
    bar_mark,
    calibration_chart,
    interval_mark,
    line_chart,
    points_chart,
    small_curve,
)
from mmfeat.report.table_layout import Cell, count, number, outside, table
from mmfeat.report.text_tables import MOST_FREQUENT

CURVES = 24  # classes with a curve of their own
MOST_CELLS = 20_000_000  # labels of the curve over all classes
TITLES = {"samples_f1": "samples F1", "micro_f1": "micro F1", "macro_f1": "macro F1", "map": "mAP", "loss": "loss"}
_SPREADS = {"samples_f1": "spread", "map": "map_spread"}


def metric_page_table(
    lines: Sequence[MetricRow],
    *,
    rows: str,
    subjects: Sequence[str],
    baselines: Sequence[str] = (),
    name: str = "metrics",
    links: dict[str, str] | None = None,
) -> PageTable:
    """Metrics of several models on the same rows, with the interval of samples F1 as a chart.

    Parameters
    ----------
    rows : str
        The rows in words: `2,000 val rows`.
    subjects, baselines : sequence of str
        Labels of the lines that the page is about, and of lines in the background.
    links : dict of str to str
        Addresses by label.
    """
    near = [line for line in lines if line.label != MOST_FREQUENT] or lines  # whose point would leave no room
    lows, highs = [line.samples_f1 - line.spread for line in near], [line.samples_f1 + line.spread for line in near]
    ends = rounded_range(min(lows), max(highs), floor=0, top=1)
    cells, marks, looks = [], [], []
    for line in lines:
        values = [number(getattr(line, key), spread=getattr(line, _SPREADS.get(key, ""), None)) for key in TITLES]
        cells.append([outside(line.label), *values, line.note])
        this = line.label in subjects
        series = 1 if this else 0 if line.label in baselines else 3
        low, high = line.samples_f1 - line.spread, line.samples_f1 + line.spread
        marks.append(interval_mark(low, line.samples_f1, high, ends, series=series))
        looks.append("this" if this and len(subjects) < len(lines) else "minor" if line.label in baselines else "")
    return PageTable(
        name=name,
        table=table(["model", *TITLES.values()], cells, title=rows),
        caption=f"On {rows}",
        marks=tuple(marks),
        mark_title=f"samples F1, {figure(ends[0], 2)} to {figure(ends[1], 2)}",
        looks=tuple(looks),
        links=tuple((links or {}).get(line.label, "") for line in lines),
    )


def class_section(
    metrics: Metrics,
    classes: Sequence[str],
    threshold: np.ndarray,
    *,
    rows: str,
    alone: dict[str, np.ndarray] | None = None,
) -> Section:
    """The section about classes.

    Parameters
    ----------
    threshold : np.ndarray
        `(K,)`: the threshold of each class for rows that are not val.
    rows : str
        The rows in words.
    alone : dict of str to np.ndarray
        F1 of each class `(K,)` by the linear probe of each encoder alone.
    """
    scores, alone = metrics.scores, alone or {}
    columns = [scores.class_precision, scores.class_recall, scores.class_f1, scores.class_ap]
    lines = []
    for k, name in enumerate(classes):
        kept = scores.n_positives[k] > 0
        values = [number(_known(column[k], kept), unknown="") for column in columns]
        others = [number(_known(f1[k], kept), unknown="") for f1 in alone.values()]
        n = count(int(scores.n_positives[k]))
        lines.append([Cell(name, name), n, *values, number(float(threshold[k])), *others])
    head = [
        "class",
        "positives",
        "precision",
        "recall",
        "F1",
        "AP",
        "threshold",
        *(f"F1 {name}" for name in alone),
    ]
    weakest = ", ".join(f"{classes[k]} (F1 {figure(f1)}, {counted(n, 'row')})" for k, f1, n in scores.weakest(3))
    left_out = scores.n_classes_left_out
    note = f" {counted(left_out, 'class', 'classes')} without a positive among these rows: blank." if left_out else ""
    blocks: list[Block | None] = [
        Text(text=f"Weakest classes: {weakest}.{note}")
        if weakest
        else Text(text=f"No class has a positive here.{note}"),
        PageTable(
            name="classes",
            table=table(head, lines, title="classes"),
            caption=f"On {rows}",
            sortable=True,
            marks=tuple(bar_mark(value if np.isfinite(value) else 0) for value in scores.class_f1.tolist()),
            mark_title="F1 as a bar",
        ),
        f1_figures(scores.n_positives, scores.class_f1, scores.class_ap, classes) if weakest else None,
    ]
    return Section.of("classes", "Classes", blocks)


def _known(value: float, kept: bool) -> float | None:
    return float(value) if kept and np.isfinite(value) else None


def f1_figures(n_positives: np.ndarray, f1: np.ndarray, ap: np.ndarray, classes: Sequence[str]) -> Columns:
    """F1 and average precision of classes against their number of positives."""
    kept = np.flatnonzero(n_positives > 0)
    figures = []
    for title, values in (("F1", f1), ("average precision", ap)):
        names = [f"{classes[k]}: {title} {figure(values[k])}, {counted(int(n_positives[k]), 'positive')}" for k in kept]
        labels = ("positives (logarithmic)", title)
        chart = points_chart(
            n_positives[kept].tolist(),
            values[kept].tolist(),
            names,
            labels=labels,
            about=f"{title} against the number of positives",
        )
        text = "Each point is a class. Classes of few positives are uncertain, and harder to learn."
        figures.append(Figure(title=f"{title[0].upper()}{title[1:]} against positives", text=text, chart=chart))
    return Columns(parts=tuple(figures))


def curve_section(
    labels: np.ndarray, logits: np.ndarray, probs: np.ndarray, *, metrics: Metrics, classes: Sequence[str]
) -> Section:
    """Precision-recall curves of all classes together and of single classes, and calibration.

    Parameters
    ----------
    labels : np.ndarray
        `(n, K)` int8.
    logits, probs : np.ndarray
        `(n, K)`; probabilities are calibrated by the decision rule.
    """
    figures = [_calibration(labels, probs, metrics.ece)]
    if labels.size <= MOST_CELLS and (labels == 1).any():
        figures.insert(0, _overall(labels, probs))
    scores = metrics.scores
    kept = np.flatnonzero(scores.n_positives > 0)
    chosen = kept[np.argsort(scores.class_ap[kept], kind="stable")][:CURVES]
    items = []
    for k in chosen.tolist():
        recall, precision = precision_recall(labels[:, k], logits[:, k], points=60)
        about = f"precision against recall of {classes[k]}"
        value = f"AP {figure(scores.class_ap[k])}, {counted(int(scores.n_positives[k]), 'positive')}"
        items.append((classes[k], value, small_curve(recall.tolist(), precision.tolist(), about)))
    which = (
        f"The {len(items)} classes of lowest average precision"
        if len(items) < len(kept)
        else "All classes, lowest average precision first"
    )
    more: list[Block] = [
        Heading(text="Precision and recall by class"),
        Text(text=f"{which}. Recall from left to right, precision upwards, both from 0 to 1."),
    ]
    return Section.of(
        "curves",
        "Precision, recall and calibration",
        [Columns(parts=tuple(figures)), *(more if items else []), Curves(items=tuple(items)) if items else None],
    )


def _overall(labels: np.ndarray, probs: np.ndarray) -> Figure:
    recall, precision = precision_recall(labels, probs)
    lines = [Line(label="all labels", xs=[0, *recall.tolist()], ys=[precision[0], *precision.tolist()])]
    chart = line_chart(
        lines,
        labels=("recall", "precision"),
        about="precision against recall of all labels",
        y=(0, 1),
        whole=False,
        height=320,
    )
    text = "All labels of all classes together (micro average): frequent classes weigh most."
    return Figure(title="Precision and recall", text=text, chart=chart)


def _calibration(labels: np.ndarray, probs: np.ndarray, ece: float) -> Figure:
    found = reliability(labels, probs)
    n = np.maximum(found.n, 1)
    chart = calibration_chart(
        found.predicted / n, found.positive / n, found.n, about="share of positives by predicted probability"
    )
    text = f"On the dashed line, probabilities mean what they say. Expected calibration error {figure(ece)}. Bars: number of labels (logarithmic)."
    return Figure(title="Calibration", text=text, chart=chart)
