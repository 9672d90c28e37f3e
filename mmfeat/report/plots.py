"""Plots as PNG files; the only place where matplotlib is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.files import atomic_path
from mmfeat.models.comparison import Compared
from mmfeat.models.figures import FigureLine
from mmfeat.texts import shown

# Colours of Okabe and Ito, told apart with any colour vision; the marks differ as well.
_LOOKS = {
    "baselines": ("#777777", "D"),
    "the paper's": ("#0072B2", "o"),
    "further heads": ("#D55E00", "s"),
}


def plot_comparison(path: Path, title: str, lines: Sequence[Compared], baselines: Sequence[FigureLine]) -> None:
    """samples-F1 of each model with its interval, one below the other in the order of the table.

    A baseline that is far below all models is only named, so that these can be told apart.
    """
    from matplotlib.figure import Figure

    rows = [(line.label, line.samples_f1, line.spread, line.spread, "baselines") for line in baselines]
    for line in lines:
        f1 = line.figures.scores.samples_f1
        group = "the paper's" if line.paper else "further heads"
        rows.append((line.label, f1, f1 - line.figures.low, line.figures.high - f1, group))
    of_models = rows[len(baselines) :]
    low, high = min(f1 - below for _, f1, below, _, _ in of_models), max(f1 + above for _, f1, _, above, _ in of_models)
    margin = max(0.1 * (high - low), 0.005)
    figure = Figure(figsize=(8, 1.3 + 0.32 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for group, (colour, mark) in _LOOKS.items():
        at = [i for i, row in enumerate(rows) if row[4] == group and row[1] + row[3] >= low - 4 * margin]
        if at:
            values, errors = [rows[i][1] for i in at], [[rows[i][side] for i in at] for side in (2, 3)]
            axes.errorbar(values, at, xerr=errors, fmt=mark, color=colour, capsize=3, markersize=6, label=group)
            low = min(low, min(rows[i][1] - rows[i][2] for i in at))
    for i, (_, f1, _, _, group) in enumerate(rows):
        if group == "baselines" and f1 + rows[i][3] < low - 4 * margin:
            axes.annotate(f"◂ {f1:.3f}", (low - margin, i), va="center", color=_LOOKS[group][0], fontsize=9)
    best = max(f1 for _, f1, _, _, _ in of_models)
    axes.axvline(best, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(low - 1.2 * margin, high + margin)
    axes.set_yticks(range(len(rows)), [shown(row[0]) for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("samples-F1, 95 % bootstrap interval over rows")
    axes.set_title(f"Heads compared on {title}", loc="left", parse_math=False)
    handles, groups = axes.get_legend_handles_labels()
    if len(groups) > 1:
        figure.legend(handles, groups, loc="outside lower center", ncols=len(groups), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def plot_learning(path: Path, title: str, history: Sequence[dict[str, Any]], best_epoch: int) -> None:
    """Losses, and figures on val, by epoch; the best epoch is marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    for axes, lines in ((losses, _LOSSES), (figures, _FIGURES)):
        for (key, label), (colour, mark) in zip(lines, _LOOKS.values(), strict=False):
            points = [(record["epoch"], record[key]) for record in history if record.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, markersize=4, label=label)
        axes.axvline(best_epoch, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xlabel(f"epoch; {best_epoch} is the best")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.suptitle(shown(title), parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


_LOSSES = (("train_loss", "training loss"), ("val_loss", "val loss"))
_FIGURES = (("val_map", "mAP on val"), ("val_samples_f1", "samples-F1 on val"), ("val_macro_f1", "macro-F1 on val"))
