"""Plots as PNG files. No other module imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmfeat.common.files import atomic_path
from mmfeat.common.text import shown
from mmfeat.config.schema import HEADS
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.comparison import ScoredModel

_F1_LABEL = f"{metric_title('samples_f1')}, 95 % interval over rows"

# Colours of Okabe and Ito, which any colour vision can tell apart; the marks differ as well.
_LOOKS = {
    "baselines": ("#777777", "D"),
    "encoders and means": ("#0072B2", "o"),
    "heads": ("#D55E00", "s"),
}


def plot_heads(path: Path, title: str, models: Sequence[ScoredModel], baselines: Sequence[MetricRow]) -> None:
    """Samples F1 of each model with its interval, one below the other in the order of the table.

    Baselines far below all models have an x axis of their own on the left.
    """
    from matplotlib.figure import Figure

    points = [_Point(line.label, line.samples_f1, line.spread, line.spread, "baselines") for line in baselines]
    for model in models:
        f1 = model.metrics.scores.samples_f1
        group = "heads" if model.name in HEADS else "encoders and means"
        points.append(_Point(model.label, f1, f1 - model.metrics.low, model.metrics.high - f1, group))
    of_models = points[len(baselines) :]
    low, high = min(p.f1 - p.below for p in of_models), max(p.f1 + p.above for p in of_models)
    margin = max(0.1 * (high - low), 0.005)
    far = [p for p in points if p.f1 + p.above < low - 4 * margin]
    near = [p for p in points if p not in far]
    figure = Figure(figsize=(8, 1.3 + 0.32 * len(points)), layout="constrained")
    if far:  # on an axis of their own, so that the models can be told apart
        aside, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 5])
        _draw_points(aside, far, points)
        middle = (min(p.f1 - p.below for p in far) + max(p.f1 + p.above for p in far)) / 2
        half = max(0.02, *(abs(p.f1 - middle) + p.above for p in far)) * 1.3
        aside.set_xlim(middle - half, middle + half)
        aside.set_xticks([round(middle, 2)])
        _break(aside, axes)
    else:
        axes = aside = figure.add_subplot()
    _draw_points(axes, near, points)
    axes.axvline(max(p.f1 for p in of_models), color="#777777", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(min(p.f1 - p.below for p in near) - margin, high + margin)
    aside.set_yticks(range(len(points)), [shown(p.label) for p in points], parse_math=False)
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.set_xlabel(_F1_LABEL)
    figure.suptitle(f"Heads compared on {title}", x=0.01, ha="left", parse_math=False)
    handles = {
        name: handle for one in (aside, axes) for handle, name in zip(*one.get_legend_handles_labels(), strict=True)
    }
    if len(handles) > 1:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    _save(figure, path)


class _Point(NamedTuple):
    """A model's samples F1, and the lengths of its interval on both sides."""

    label: str
    f1: float
    below: float
    above: float
    group: str


def _draw_points(axes: Any, points: Sequence[_Point], rows: Sequence[_Point]) -> None:
    """Draw points with their intervals, each in its row."""
    for group, (colour, mark) in _LOOKS.items():
        own = [p for p in points if p.group == group]
        if own:
            sides, at = [[p.below for p in own], [p.above for p in own]], [rows.index(p) for p in own]
            look = {"fmt": mark, "color": colour, "capsize": 3, "markersize": 6}
            axes.errorbar([p.f1 for p in own], at, xerr=sides, label=group, **look)
    _quieten(axes, "x")


def _break(left: Any, right: Any) -> None:
    """Mark that the x axes of two neighbours are not one."""
    right.spines["left"].set_visible(False)
    right.tick_params(left=False)
    look = {"marker": [(-1, -2), (1, 2)], "markersize": 8, "linestyle": "none", "color": "black", "clip_on": False}
    left.plot([1], [0], transform=left.transAxes, **look)
    right.plot([0], [0], transform=right.transAxes, **look)


def plot_encoders(path: Path, title: str, models: Sequence[ScoredModel], baselines: Sequence[MetricRow]) -> None:
    """Samples F1 of each encoder with its interval, against size and samples per second; numbers refer to the legend.

    A baseline is a dashed line, or an arrow at the lower edge if it is far below all encoders.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    modalities = list(dict.fromkeys(model.group for model in models))
    looks = [_LOOKS["encoders and means"], _LOOKS["heads"], _LOOKS["baselines"]]
    figure = Figure(figsize=(10, 4.6 + 0.2 * len(models)), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    handles: dict[str, Any] = {}
    for axes, label in zip(both, ("MB in float32", "samples per second, read and prepared"), strict=True):
        for number, model in enumerate(models, 1):
            x = model.size_mb if axes is both[0] else model.encoder.rate
            if x is None:  # imported embeddings: their network is not known
                continue
            colour, mark = looks[modalities.index(model.group)]
            f1 = model.metrics.scores.samples_f1
            sides = [[f1 - model.metrics.low], [model.metrics.high - f1]]
            handle = axes.errorbar([x], [f1], yerr=sides, fmt=mark, color=colour, capsize=3, markersize=6)
            handles.setdefault(f"{number}  {shown(model.label)}", handle)
            axes.annotate(str(number), (x, f1), (7, 4), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        axes.margins(x=0.15)
        _draw_baselines(axes, baselines, [model.metrics.low for model in models])
        axes.set_xlabel(label)
        _quieten(axes)
    both[0].set_ylabel(_F1_LABEL)
    how = "frozen" if models[0].encoder.frozen else "fine-tuned"
    figure.suptitle(f"Encoders ({how}) compared on {title}", x=0.01, ha="left", parse_math=False)
    legend = figure.legend(handles.values(), handles, loc="outside lower left", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def _draw_baselines(axes: Any, baselines: Sequence[MetricRow], lows: Sequence[float]) -> None:
    colour, low = _LOOKS["baselines"][0], min(lows)
    for line in baselines:
        text = f"{shown(line.label)} {line.samples_f1:.3f}"
        look = {"color": colour, "fontsize": 9, "parse_math": False}
        if line.samples_f1 > low - 0.1:
            axes.axhline(line.samples_f1, color=colour, linewidth=0.8, linestyle="--", zorder=0)
            at = (1, line.samples_f1)
            axes.annotate(text, at, (-2, 3), axes.get_yaxis_transform(), "offset points", ha="right", **look)
        else:
            axes.annotate(f"▾ {text}", (0.98, 0.01), xycoords="axes fraction", ha="right", va="bottom", **look)


def plot_learning(path: Path, title: str, history: Sequence[dict[str, Any]], best_epoch: int) -> None:
    """Losses, and metrics on val, by epoch; the best epoch is marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, metrics = figure.subplots(1, 2)
    for axes, lines in ((losses, _LOSSES), (metrics, _METRICS)):
        for (key, label), (colour, mark) in zip(lines, _LOOKS.values(), strict=False):
            points = [(record["epoch"], record[key]) for record in history if record.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, markersize=4, label=label)
        axes.axvline(best_epoch, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xlabel(f"epoch (best: {best_epoch})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _quieten(axes)
        _legend_below(axes)
    figure.suptitle(shown(title), parse_math=False)
    _save(figure, path)


def plot_rounds(path: Path, rounds: Sequence[dict[str, Any]], *, metric: str) -> None:
    """Metrics on val of each self-training round (reverted rounds are hollow), its pseudo-labels by class, and their agreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    scored, pseudo, agreement = figure.subplots(1, 3)
    numbers = [one["number"] for one in rounds]
    for (key, label), (colour, mark) in zip(_ROUNDS, _LOOKS.values(), strict=True):
        values = [one["figures"][key] for one in rounds]
        faces = [colour if one["accepted"] else "white" for one in rounds]
        scored.plot(numbers, values, color=colour, label=label)
        scored.scatter(numbers, values, edgecolors=colour, facecolors=faces, marker=mark, zorder=3)
    counts = np.array([one["n_yes"] for one in rounds[1:]], dtype=float)
    if len(counts):
        pseudo.plot(numbers[1:], counts, color="#bbbbbb", linewidth=0.8, marker=".", markersize=3)
        pseudo.plot(numbers[1:], counts.mean(1), color="#0072B2", linewidth=2, marker="o", label="mean of the classes")
    for (key, label), (colour, mark) in zip(_AGREEMENT, _LOOKS.values(), strict=False):
        known = [one for one in rounds if one[key] is not None]
        if known:
            at, values = [one["number"] for one in known], [one[key] for one in known]
            agreement.plot(at, values, color=colour, marker=mark, label=label, clip_on=False)
    agreement.set_ylim(0, 1)
    if not agreement.lines:
        agreement.text(0.5, 0.5, "from the second round on", ha="center", transform=agreement.transAxes)
    named = (
        (scored, "metrics of the MLP on val"),
        (pseudo, "positive pseudo-labels; thin: of each class"),
        (agreement, "agreement of pseudo-labels, micro F1"),
    )
    for axes, label in named:
        axes.set_xlabel("round; 0 is supervised, hollow is reverted" if axes is scored else "round")
        axes.set_xlim(-0.1, numbers[-1] + 0.1)
        axes.set_title(label, fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _quieten(axes)
        _legend_below(axes)
    figure.suptitle(f"Self-training, rounds selected by {metric_title(metric)}")
    _save(figure, path)


def _quieten(axes: Any, lines: str = "both") -> None:
    """Draw a faint grid, and no frame on the top and right."""
    axes.grid(axis=lines, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_below(axes: Any) -> None:
    """The legend of named lines below their axes, where no curve is."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, fontsize=9)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


_ROUNDS = tuple((name, metric_title(name)) for name in ("samples_f1", "macro_f1", "map"))
_AGREEMENT = (("agreement", "with the previous round"), ("truth", "with the true labels"))
_LOSSES = (("train_loss", "training loss"), ("val_loss", "val loss"))
_METRICS = tuple((f"val_{name}", f"{metric_title(name)} on val") for name in ("map", "samples_f1", "macro_f1"))
