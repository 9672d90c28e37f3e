"""A sweep as tables for a terminal and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from mmfeat.models.sweeps import FIGURES, Effect, SweptCell
from mmfeat.report.tables import figure_name, table
from mmfeat.texts import shown

_ALWAYS = ("macro_f1", "map")  # beside the project's metric


def sweep_table(title: str, cells: Sequence[SweptCell], metric: str) -> str:
    """A line for each cell; `title` names the rows that the figures are of."""
    keys, chosen = _keys(cells), metric.replace("-", "_")
    others = [figure for figure in _ALWAYS if figure != chosen]
    head = [title, *keys, *(figure_name(figure) for figure in (chosen, *others)), "epoch", "seconds"]
    rows = []
    for cell in cells:
        line = [cell.head, *(_value(cell.values.get(key, "-")) for key in keys)]
        if cell.error:
            rows.append([*line, *["-"] * (len(others) + 3), shown(cell.error, 120)])
            continue
        line.append(f"{cell.mean(chosen):.3f} ± {cell.deviation(metric):.3f}")
        line += [f"{cell.mean(figure):.3f}" for figure in others]
        rows.append([*line, f"{cell.mean('best_epoch'):.0f}", f"{cell.mean('seconds'):.1f}"])
    return table(head, rows)


def effects_table(effects: Sequence[Effect], metric: str) -> str:
    """A line for each setting: its share of the variance, and the mean of the figure by value."""
    rows = [
        [effect.key, f"{effect.share:.0%}", ", ".join(f"{_value(value)}: {mean:.3f}" for value, mean in effect.means)]
        for effect in effects
    ]
    return table(["setting", "explains", f"mean {figure_name(metric)} by value"], rows, left=3)


def sweep_csv(cells: Sequence[SweptCell], metric: str) -> str:
    """CSV text: every cell, its figures on average over seeds and the metric's deviation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = _keys(cells)
    writer.writerow(["head", *keys, *FIGURES, f"deviation_of_{metric}", "best_epoch", "seconds", "n_seeds", "error"])
    for cell in cells:
        figures = [""] * (len(FIGURES) + 3)
        if not cell.error:
            names = (*FIGURES, None, "best_epoch", "seconds")
            figures = [f"{cell.mean(n) if n else cell.deviation(metric):.6f}" for n in names]
        values = [_value(cell.values.get(key, "")) for key in keys]
        writer.writerow([cell.head, *values, *figures, len(cell.heads), cell.error])
    return text.getvalue()


def _keys(cells: Sequence[SweptCell]) -> list[str]:
    """The swept keys, without `head`, which has a column anyway."""
    return [key for key in dict.fromkeys(key for cell in cells for key in cell.values) if key != "head"]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value, 30)
