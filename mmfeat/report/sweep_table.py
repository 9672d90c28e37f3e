"""A sweep as tables for a terminal and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.progress import clock
from mmfeat.common.text import shown
from mmfeat.report.text_tables import metric_title, table
from mmfeat.runs.sweep_effects import METRIC_NAMES, Effect, SweptCell, lowest_loss

_ALWAYS = ("macro_f1", "map")  # beside the project's metric


def sweep_table(title: str, cells: Sequence[SweptCell], metric: str) -> str:
    """A line for each cell; `title` names the rows that the figures are of."""
    keys, chosen = _keys(cells), metric.replace("-", "_")
    others = [figure for figure in _ALWAYS if figure != chosen]
    head = [title, *keys, *(metric_title(figure) for figure in (chosen, *others)), "epoch", "seconds"]
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


def finetune_table(title: str, cells: Sequence[SweptCell], metric: str) -> str:
    """A line for each cell of fine-tunings, numbered; the figures of training rows are in-sample, and say so."""
    keys, chosen, lowest = _keys(cells), metric.replace("-", "_"), lowest_loss(cells)
    others = [figure for figure in ("samples_f1", "macro_f1", "loss") if figure != chosen]
    head = [title, *keys, "time", *(metric_title(figure) for figure in (chosen, *others))]
    head += [f"in-sample {metric_title(figure)}" for figure in ("samples_f1", "loss")] + ["epoch"]
    rows = []
    for number, cell in enumerate(cells, 1):
        line = [str(number), *(_value(cell.values.get(key, "-")) for key in keys)]
        if cell.error:
            rows.append([*line, *["-"] * (len(head) - len(line)), shown(cell.error, 160)])
            continue
        spread = f" ± {_metric(chosen, cell.deviation(metric))}" if len(cell.heads) > 1 else ""
        line += [clock(cell.mean("seconds")), f"{_metric(chosen, cell.mean(chosen))}{spread}"]
        line += [_metric(figure, cell.mean(figure)) for figure in others]
        line += [_metric(figure, cell.mean(f"train_{figure}")) for figure in ("samples_f1", "loss")]
        rows.append([*line, f"{cell.mean('best_epoch'):.0f}", "lowest loss" if cell is lowest else ""])
    return table(head, rows)


def _metric(name: str, value: float) -> str:
    return f"{value:.{4 if name == 'loss' else 3}f}"


def effects_table(effects: Sequence[Effect], metric: str) -> str:
    """A line for each setting: its share of the variance, and the mean of the figure by value."""
    rows = [
        [effect.key, f"{effect.share:.0%}", ", ".join(f"{_value(value)}: {mean:.3f}" for value, mean in effect.means)]
        for effect in effects
    ]
    return table(["setting", "explains", f"mean {metric_title(metric)} by value"], rows, left=3)


def sweep_csv(cells: Sequence[SweptCell], metric: str, first: str = "head", more: Sequence[str] = ()) -> str:
    """CSV text: every cell, its figures on average over seeds and the metric's deviation.

    Parameters
    ----------
    first : str
        What is swept.
    more : sequence of str
        Further numbers of its fits.
    """
    keys, rows = _keys(cells), []
    last = ("best_epoch", "seconds", *more)
    header = [first, *keys, *METRIC_NAMES, f"deviation_of_{metric}", *last, "n_seeds", "error"]
    for cell in cells:
        figures = [""] * (len(METRIC_NAMES) + 1 + len(last))
        if not cell.error:
            names = (*METRIC_NAMES, None, *last)
            figures = [f"{cell.mean(n) if n else cell.deviation(metric):.6f}" for n in names]
        values = [_value(cell.values.get(key, "")) for key in keys]
        rows.append([cell.head, *values, *figures, len(cell.heads), cell.error])
    return csv_text(header, rows)


def _keys(cells: Sequence[SweptCell]) -> list[str]:
    """The swept keys, without `head`, which has a column anyway."""
    return [key for key in dict.fromkeys(key for cell in cells for key in cell.values) if key != "head"]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value, 30)
