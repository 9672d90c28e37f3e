"""A sweep as tables for a terminal and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.text import shown
from mmfeat.report.table_layout import Cell, Table, count, duration, number, outside, table
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.sweep import METRIC_NAMES, Effect, SweptCell, lowest_loss

_ERROR = 160  # characters of an error


def sweep_table(
    title: str, cells: Sequence[SweptCell], metric: str, *, in_sample: bool = False, most: int | None = None
) -> Table:
    """A line for each cell; `title` names the rows.

    Parameters
    ----------
    in_sample : bool
        Whether to number the lines and show in-sample metrics, as for a sweep of fine-tunings.
    most : int, optional
        The number of lines in the text.
    """
    keys, chosen = _keys(cells), metric.replace("-", "_")
    others = ("samples_f1", "macro_f1", "loss") if in_sample else ("macro_f1", "map")
    names = [chosen, *(name for name in others if name != chosen)]
    trained = (_in_sample_f1(cells, chosen), "loss") if in_sample else ()
    lowest = lowest_loss(cells) if in_sample else None
    head = [title, *keys, *map(metric_title, names), *(f"in-sample {metric_title(name)}" for name in trained)]
    head += ["epoch", "time" if in_sample else "seconds"]
    rows = []
    for i, cell in enumerate(cells, 1):
        row = [count(i) if in_sample else outside(cell.name), *(_setting(cell.values.get(key)) for key in keys)]
        if cell.error:
            rows.append([*row, *["-"] * (len(head) - len(row)), shown(cell.error, _ERROR)])
            continue
        spread = cell.deviation(metric)
        row += [_metric(name, cell.mean(name), spread if name == chosen else None) for name in names]
        row += [_metric(name, cell.mean(f"train_{name}")) for name in trained]
        seconds = cell.mean("seconds")
        row += [number(cell.mean("best_epoch"), 0), duration(seconds) if in_sample else number(seconds, 1)]
        rows.append([*row, "lowest loss" if cell is lowest else ""])
    first, keep = "cell" if in_sample else "head", [metric_title(metric), *keys]
    return table(head, rows, title=title, first=first, keep=keep, most=most)


def _in_sample_f1(cells: Sequence[SweptCell], chosen: str) -> str:
    """The F1 of the in-sample column: macro F1 if cells are chosen by it and all fits have it, otherwise samples F1."""
    fits = [fit for cell in cells for fit in cell.fits if not fit.get("error")]
    return chosen if chosen == "macro_f1" and all(f"train_{chosen}" in fit for fit in fits) else "samples_f1"


def effects_table(effects: Sequence[Effect], metric: str) -> Table:
    """A line for each setting: its share of the variance, and the mean of the metric by value."""
    rows = []
    for effect in effects:
        means = ", ".join(f"{_value(value)}: {mean:.3f}" for value, mean in effect.means)
        share = Cell(f"{effect.share:.0%}", effect.share)
        rows.append([outside(effect.key), share, Cell(means, [list(pair) for pair in effect.means])])
    head = ["setting", "share of variance", f"mean {metric_title(metric)} by value"]
    return table(head, rows, left=3, title="effects of settings")


def sweep_csv(cells: Sequence[SweptCell], metric: str, *, title: str = "head", numbers: Sequence[str] = ()) -> str:
    """CSV text: every cell, its metrics on average over seeds, and the deviation of the project's metric.

    Parameters
    ----------
    title : str
        The first column: what is swept.
    numbers : sequence of str
        Further numbers of the fits.
    """
    keys, rows = _keys(cells), []
    last = ("best_epoch", "seconds", *numbers)
    header = [title, *keys, *METRIC_NAMES, f"deviation_of_{metric}", *last, "n_seeds", "error"]
    for cell in cells:
        figures = [""] * (len(METRIC_NAMES) + 1 + len(last))
        if not cell.error:
            names = (*METRIC_NAMES, None, *last)
            found = [cell.mean(name) if name else cell.deviation(metric) for name in names]
            figures = ["" if one is None else f"{one:.6f}" for one in found]
        values = [_value(cell.values.get(key, "")) for key in keys]
        rows.append([cell.name, *values, *figures, len(cell.fits), cell.error])
    return csv_text(header, rows)


def _metric(name: str, value: float, spread: float | None = None) -> Cell:
    return number(value, 4 if name == "loss" else 3, spread=spread)


def _keys(cells: Sequence[SweptCell]) -> list[str]:
    """The swept keys, without `head`, which has a column anyway."""
    return [key for key in dict.fromkeys(key for cell in cells for key in cell.values) if key != "head"]


def _setting(value: Any) -> Cell:
    return Cell("-" if value is None else _value(value), value)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value, 30)
