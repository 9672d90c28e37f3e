"""Plots as PNG files; the only place where matplotlib is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.files import atomic_path
from mmfeat.common.text import shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.runs.comparison import Compared
from mmfeat.runs.encoder_comparison import EncoderLine

# Colours of Okabe and Ito, told apart with any colour vision; the marks differ as well.
_LOOKS = {
    "baselines": ("#777777", "D"),
    "the paper's": ("#0072B2", "o"),
    "further heads": ("#D55E00", "s"),
}


def plot_comparison(path: Path, title: str, lines: Sequence[Compared], baselines: Sequence[MetricRow]) -> None:
    """samples-F1 of each model with its interval, one below the other in the order of the table.

    A baseline that is far below all models is only named, so that these can be told apart.
    """
    from matplotlib.figure import Figure

    rows = [(line.label, line.samples_f1, line.spread, line.spread, "baselines") for line in baselines]
    for line in lines:
        f1 = line.metrics.scores.samples_f1
        group = "the paper's" if line.paper else "further heads"
        rows.append((line.label, f1, f1 - line.metrics.low, line.metrics.high - f1, group))
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
    _quieten(axes, "x")
    axes.set_xlabel("samples-F1, 95 % bootstrap interval over rows")
    axes.set_title(f"Heads compared on {title}", loc="left", parse_math=False)
    handles, groups = axes.get_legend_handles_labels()
    if len(groups) > 1:
        figure.legend(handles, groups, loc="outside lower center", ncols=len(groups), frameon=False)
    _save(figure, path)


def plot_encoders(path: Path, title: str, lines: Sequence[EncoderLine]) -> None:
    """samples-F1 of each encoder with its interval, against its size and against samples a second; numbers name them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    modalities = list(dict.fromkeys(line.record.modality for line in lines))
    looks = [_LOOKS["the paper's"], _LOOKS["further heads"], _LOOKS["baselines"]]
    figure = Figure(figsize=(10, 4.6 + 0.2 * len(lines)), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    handles: dict[str, Any] = {}
    for axes, label in zip(both, ("MB in float32", "samples a second, read and prepared"), strict=True):
        for number, line in enumerate(lines, 1):
            x = line.compared.size_mb if axes is both[0] else line.record.rate
            if x is None:  # imported embeddings: their network is not known
                continue
            colour, mark = looks[modalities.index(line.record.modality)]
            figures = line.compared.metrics
            f1 = figures.scores.samples_f1
            sides = [[f1 - figures.low], [figures.high - f1]]
            handle = axes.errorbar([x], [f1], yerr=sides, fmt=mark, color=colour, capsize=3, markersize=6)
            handles.setdefault(f"{number}  {shown(line.record.label)}", handle)
            axes.annotate(str(number), (x, f1), (7, 4), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        _quieten(axes)
    both[0].set_ylabel("samples-F1, 95 % bootstrap interval over rows")
    how = "frozen" if lines[0].record.frozen else "fine-tuned"
    figure.suptitle(f"Encoders ({how}) compared on {title}", x=0.01, ha="left", parse_math=False)
    legend = figure.legend(handles.values(), handles, loc="outside lower left", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path)


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
        _quieten(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.suptitle(shown(title), parse_math=False)
    _save(figure, path)


def plot_rounds(path: Path, title: str, rounds: Sequence[dict[str, Any]]) -> None:
    """Figures on val of each round of a self-training (reverted rounds are hollow), its pseudo-labels by class, and how steady they are."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    scored, taught, steady = figure.subplots(1, 3)
    numbers = [one["number"] for one in rounds]
    for (key, label), (colour, mark) in zip(_ROUNDS, _LOOKS.values(), strict=True):
        values = [one["figures"][key] for one in rounds]
        faces = [colour if one["accepted"] else "white" for one in rounds]
        scored.plot(numbers, values, color=colour, label=label)
        scored.scatter(numbers, values, edgecolors=colour, facecolors=faces, marker=mark, zorder=3)
    taught.plot(numbers[1:], [one["n_yes"] for one in rounds[1:]], marker=".")
    for key, label in (("agreement", "with the round before"), ("truth", "with the truth")):
        known = [one["number"] for one in rounds if one[key] is not None]
        if known:
            steady.plot(
                known, [one[key] for one in rounds if one[key] is not None], marker="o", label=label, clip_on=False
            )
    steady.set_ylim(0, 1)
    if steady.lines:
        steady.legend(frameon=False, loc="lower left")
    else:
        steady.text(0.5, 0.5, "from the second round on", ha="center", transform=steady.transAxes)
    named = (
        (scored, "figures of the MLP on val"),
        (taught, "rows taught as yes, a line for each class"),
        (steady, "agreement of pseudo-labels, micro-F1"),
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
    """Faint lines behind, no frame on top and on the right."""
    axes.grid(axis=lines, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


_ROUNDS = (("samples_f1", "samples-F1"), ("macro_f1", "macro-F1"), ("map", "mAP"))
_LOSSES = (("train_loss", "training loss"), ("val_loss", "val loss"))
_FIGURES = (("val_map", "mAP on val"), ("val_samples_f1", "samples-F1 on val"), ("val_macro_f1", "macro-F1 on val"))
