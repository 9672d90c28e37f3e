"""Sections of a report about training: learning curves of heads and encoders, and rounds of self-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmfeat.report.html.blocks import Block, Columns, Figure, Heading, PageTable, Section
from mmfeat.report.html.svg_charts import SERIES, Line, line_chart
from mmfeat.report.round_table import rounds_table
from mmfeat.report.text_tables import metric_title

MOST_EPOCHS = 300  # points of a line
_METRICS = ("samples-f1", "macro-f1", "map", "micro-f1")


@dataclass(frozen=True, kw_only=True)
class History:
    """The epochs of one trained part.

    Attributes
    ----------
    name : str
        The run or the encoder.
    fits : sequence of (list of dict, int)
        For each seed its epochs as recorded, and the best one.
    """

    name: str
    fits: Sequence[tuple[list[dict[str, Any]], int]]


def learning_section(histories: Sequence[History]) -> Section | None:
    """Learning curves of each part; None if nothing was recorded."""
    blocks: list[Block] = []
    for history in histories:
        if figures := _figures(history):
            blocks += [Heading(text=history.name), Columns(parts=tuple(figures))]
    return Section.of("learning", "Learning", blocks) if blocks else None


def _figures(history: History) -> list[Figure]:
    fits = [(_thinned(epochs), best) for epochs, best in history.fits[:SERIES] if len(epochs) > 1]
    several = len(fits) > 1
    losses, metrics = [], []
    for seed, (epochs, best) in enumerate(fits):
        name = f"seed {seed}" if several else ""
        keys = ("train_loss",) if several else ("train_loss", "val_loss")
        for number, key in enumerate(keys, 1):
            losses += _line(epochs, key, name or _title(key), series=seed + number, best=best)
        for number, key in enumerate(_recorded(epochs)[: 1 if several else 3], 1):
            metrics += _line(epochs, key, name or _title(key), series=seed + number, best=best)
    title = _title(_recorded(fits[0][0])[0]) if several and metrics else "metrics on val"
    text = "The filled point is the best epoch, which is kept."
    found = []
    for lines, what in ((losses, "training loss" if several else "loss"), (metrics, title)):
        if lines:
            chart = line_chart(lines, labels=("epoch", what), about=f"{what} of {history.name} by epoch")
            found.append(Figure(title=f"{what[0].upper()}{what[1:]}", text=text, chart=chart))
    return found


def _line(epochs: Sequence[dict[str, Any]], key: str, label: str, *, series: int, best: int) -> list[Line]:
    """The line of a recorded value; none if it has fewer than two points."""
    points = [(one["epoch"], one[key]) for one in epochs if isinstance(one.get(key), int | float)]
    if len(points) < 2:
        return []
    xs, ys = zip(*points, strict=True)
    at = [(x, v) for x, v in points if x == best]
    line = Line(label=label, xs=xs, ys=ys, series=(series - 1) % SERIES + 1)
    kept = [Line(label="", xs=[x], ys=[v], series=line.series, marks=(True,)) for x, v in at]
    return [line, *kept]


def _recorded(epochs: Sequence[dict[str, Any]]) -> list[str]:
    keys = [*(f"val_{name}" for name in _METRICS), *(f"val_{name.replace('-', '_')}" for name in _METRICS)]
    return list(dict.fromkeys(key for key in keys if any(key in one for one in epochs)))


def _title(key: str) -> str:
    if key.endswith("loss"):
        return "training loss" if key == "train_loss" else "loss on val"
    return f"{metric_title(key.removeprefix('val_'))} on val"


def _thinned(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return epochs[:: max(1, len(epochs) // MOST_EPOCHS)]


def rounds_section(rounds: Sequence[dict[str, Any]], *, metric: str, best: int, judged: str) -> Section:
    """The rounds of a self-training: metrics on val, pseudo-labels and their agreement, and which rounds were accepted."""
    numbers = [one["number"] for one in rounds]
    marks = [one["accepted"] for one in rounds]
    lines = [
        Line(label=metric_title(name), xs=numbers, ys=[one["figures"][name] for one in rounds], series=k, marks=marks)
        for k, name in enumerate(("samples_f1", "macro_f1", "map"), 1)
    ]
    text = f"Of {judged} on val. Round 0 is supervised; a hollow point was reverted. The pseudo-labels of round {best} were used."
    chart = line_chart(lines, labels=("round", "metric on val"), about="metrics on val by round")
    blocks: list[Block] = [
        Figure(title="Metrics by round", text=text, chart=chart),
        PageTable(
            name="rounds",
            table=rounds_table(rounds, metric),
            caption="A difference is from the best earlier round, with its 95 % interval.",
        ),
    ]
    return Section.of("rounds", "Self-training", blocks)
