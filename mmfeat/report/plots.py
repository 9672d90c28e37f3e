"""Plots as PNG files. No other module imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.files import atomic_path
from mmfeat.common.text import shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.comparison import ScoredModel

_F1_LABEL = f"{metric_title('samples_f1')}, 95 % bootstrap interval over rows"

# Colours of Okabe and Ito, which any colour vision can tell apart; the marks differ as well.
_LOOKS = {
    "baselines": ("#777777", "D"),
    "the paper's": ("#0072B2", "o"),
    "further heads": ("#D55E00", "s"),
}


def plot_heads(path: Path, title: str, models: Sequence[ScoredModel], baselines: Sequence[MetricRow]) -> None:
    """Samples F1 of each model with its interval, one below the other in the order of the table.

    A baseline far below all models is shown as a number at the left edge, so that the models can be told apart.
    """
    from matplotlib.figure import Figure

    points = [(line.label, line.samples_f1, line.spread, line.spread, "baselines") for line in baselines]
    for model in models:
        f1 = model.metrics.scores.samples_f1
        group = "the paper's" if model.group == "paper" else "further heads"
        points.append((model.label, f1, f1 - model.metrics.low, model.metrics.high - f1, group))
    of_models = points[len(baselines) :]
    low, high = min(f1 - below for _, f1, below, _, _ in of_models), max(f1 + above for _, f1, _, above, _ in of_models)
    margin = max(0.1 * (high - low), 0.005)
    edge = low - 4 * margin
    figure = Figure(figsize=(8, 1.3 + 0.32 * len(points)), layout="constrained")
    axes = figure.add_subplot()
    for group, (colour, mark) in _LOOKS.items():
        at = [i for i, point in enumerate(points) if point[4] == group and point[1] + point[3] >= edge]
        if at:
            values, errors = [points[i][1] for i in at], [[points[i][side] for i in at] for side in (2, 3)]
            axes.errorbar(values, at, xerr=errors, fmt=mark, color=colour, capsize=3, markersize=6, label=group)
            low = min(low, min(points[i][1] - points[i][2] for i in at))
    for i, (_, f1, _, above, group) in enumerate(points):
        if group == "baselines" and f1 + above < edge:
            axes.annotate(f"◂ {f1:.3f}", (low - margin, i), va="center", color=_LOOKS[group][0], fontsize=9)
    best = max(f1 for _, f1, _, _, _ in of_models)
    axes.axvline(best, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(low - 1.2 * margin, high + margin)
    axes.set_yticks(range(len(points)), [shown(point[0]) for point in points], parse_math=False)
    axes.set_ylim(len(points) - 0.4, -0.6)
    _quieten(axes, "x")
    axes.set_xlabel(_F1_LABEL)
    axes.set_title(f"Heads compared on {title}", loc="left", parse_math=False)
    handles, groups = axes.get_legend_handles_labels()
    if len(groups) > 1:
        figure.legend(handles, groups, loc="outside lower center", ncols=len(groups), frameon=False)
    _save(figure, path)


def plot_encoders(path: Path, title: str, models: Sequence[ScoredModel]) -> None:
    """Samples F1 of each encoder with its interval, against size and samples per second; numbers refer to the legend."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    modalities = list(dict.fromkeys(model.group for model in models))
    looks = [_LOOKS["the paper's"], _LOOKS["further heads"], _LOOKS["baselines"]]
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
        axes.set_xlabel(label)
        _quieten(axes)
    both[0].set_ylabel(_F1_LABEL)
    how = "frozen" if models[0].encoder.frozen else "fine-tuned"
    figure.suptitle(f"Encoders ({how}) compared on {title}", x=0.01, ha="left", parse_math=False)
    legend = figure.legend(handles.values(), handles, loc="outside lower left", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path)


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
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.suptitle(shown(title), parse_math=False)
    _save(figure, path)


def plot_rounds(path: Path, title: str, rounds: Sequence[dict[str, Any]]) -> None:
    """Metrics on val of each self-training round (reverted rounds are hollow), its pseudo-labels by class, and their agreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    scored, pseudo, agreement = figure.subplots(1, 3)
    numbers = [one["number"] for one in rounds]
    for (key, label), (colour, mark) in zip(_ROUNDS, _LOOKS.values(), strict=True):
        values = [one["figures"][key] for one in rounds]
        faces = [colour if one["accepted"] else "white" for one in rounds]
        scored.plot(numbers, values, color=colour, label=label)
        scored.scatter(numbers, values, edgecolors=colour, facecolors=faces, marker=mark, zorder=3)
    pseudo.plot(numbers[1:], [one["n_yes"] for one in rounds[1:]], marker=".")
    for key, label in (("agreement", "with the previous round"), ("truth", "with the true labels")):
        known = [one["number"] for one in rounds if one[key] is not None]
        if known:
            agreement.plot(
                known, [one[key] for one in rounds if one[key] is not None], marker="o", label=label, clip_on=False
            )
    agreement.set_ylim(0, 1)
    if agreement.lines:
        agreement.legend(frameon=False, loc="lower left")
    else:
        agreement.text(0.5, 0.5, "from the second round on", ha="center", transform=agreement.transAxes)
    named = (
        (scored, "metrics of the MLP on val"),
        (pseudo, "positive pseudo-labels, a line for each class"),
        (agreement, "agreement of pseudo-labels, micro-F1"),
    )
    for axes, label in named:
        axes.set_xlabel("round; 0 is supervised, hollow is reverted" if axes is scored else "round")
        axes.set_xlim(-0.1, numbers[-1] + 0.1)
        axes.set_title(label, fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _quieten(axes)
    scored.legend(frameon=False)
    figure.suptitle(shown(title), parse_math=False)
    _save(figure, path)


def _quieten(axes: Any, lines: str = "both") -> None:
    """Draw a faint grid, and no frame on the top and right."""
    axes.grid(axis=lines, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


_ROUNDS = tuple((name, metric_title(name)) for name in ("samples_f1", "macro_f1", "map"))
_LOSSES = (("train_loss", "training loss"), ("val_loss", "val loss"))
_METRICS = tuple((f"val_{name}", f"{metric_title(name)} on val") for name in ("map", "samples_f1", "macro_f1"))
