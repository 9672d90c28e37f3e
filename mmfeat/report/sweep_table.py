"""A sweep as tables for a terminal and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.progress import clock
from mmfeat.common.text import shown
from mmfeat.report.text_tables import metric_title, table
from mmfeat.runs.sweep import METRIC_NAMES, Effect, SweptCell, lowest_loss

_ERROR = 160  # characters of an error


def sweep_table(title: str, cells: Sequence[SweptCell], metric: str, *, in_sample: bool = False) -> str:
    """A line for each cell; `title` names the rows.

    Parameters
    ----------
    in_sample : bool
        Whether to number the lines and show in-sample metrics, as for a sweep of fine-tunings.
    """
    keys, chosen = _keys(cells), metric.replace("-", "_")
    others = ("samples_f1", "macro_f1", "loss") if in_sample else ("macro_f1", "map")
    names = [chosen, *(name for name in others if name != chosen)]
    trained = ("samples_f1", "loss") if in_sample else ()
    lowest = lowest_loss(cells) if in_sample else None
    head = [title, *keys, *map(metric_title, names), *(f"in-sample {metric_title(name)}" for name in trained)]
    head += ["epoch", "time" if in_sample else "seconds"]
    rows = []
    for number, cell in enumerate(cells, 1):
        row = [str(number) if in_sample else cell.name, *(_value(cell.values.get(key, "-")) for key in keys)]
        if cell.error:
            rows.append([*row, *["-"] * (len(head) - len(row)), shown(cell.error, _ERROR)])
            continue
        several = not in_sample or len(cell.fits) > 1
        spread = f" ± {_metric(chosen, cell.deviation(metric))}" if several else ""
        row += [_metric(name, cell.mean(name)) + (spread if name == chosen else "") for name in names]
        row += [_metric(name, cell.mean(f"train_{name}")) for name in trained]
        seconds = cell.mean("seconds")
        row += [f"{cell.mean('best_epoch'):.0f}", clock(seconds) if in_sample else f"{seconds:.1f}"]
        rows.append([*row, "lowest loss" if cell is lowest else ""])
    return table(head, rows)


def effects_table(effects: Sequence[Effect], metric: str) -> str:
    """A line for each setting: its share of the variance, and the mean of the metric by value."""
    rows = [
        [effect.key, f"{effect.share:.0%}", ", ".join(f"{_value(value)}: {mean:.3f}" for value, mean in effect.means)]
        for effect in effects
    ]
    return table(["setting", "share of variance", f"mean {metric_title(metric)} by value"], rows, left=3)


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
            figures = [f"{cell.mean(n) if n else cell.deviation(metric):.6f}" for n in names]
        values = [_value(cell.values.get(key, "")) for key in keys]
        rows.append([cell.name, *values, *figures, len(cell.fits), cell.error])
    return csv_text(header, rows)


def _metric(name: str, value: float) -> str:
    return f"{value:.{4 if name == 'loss' else 3}f}"


def _keys(cells: Sequence[SweptCell]) -> list[str]:
    """The swept keys, without `head`, which has a column anyway."""
    return [key for key in dict.fromkeys(key for cell in cells for key in cell.values) if key != "head"]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value, 30)
