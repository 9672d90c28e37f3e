"""The rounds of a self-training beside its run: a table for each round and class, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.files import write_atomic
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.plots import plot_rounds
from mmfeat.report.text_tables import metric_cells, metric_header, table

_COLUMNS = ("number", "accepted", "refitted", "n_pseudo", "n_unknown", "changed", "agreement", "truth")
_FIGURES = ("samples_f1", "micro_f1", "macro_f1", "map", "loss")

FILES = ("rounds.csv", "rounds.png")


def write_rounds(
    folder: Path, name: str, rounds: Sequence[dict[str, Any]], classes: Sequence[str], metric: str
) -> None:
    """Write `rounds.csv` (a line for each round; rows taught as yes by class last) and `rounds.png`."""
    header = [*_COLUMNS, "difference", "low", "high", *_FIGURES, *(f"yes_{c}" for c in classes)]
    rows = []
    for one in rounds:
        difference = one["difference"] or ("", "", "")
        rows.append([*(one[c] for c in _COLUMNS), *difference, *(one["figures"][f] for f in _FIGURES), *one["n_yes"]])
    write_atomic(folder / FILES[0], csv_text(header, rows))
    plot_rounds(folder / FILES[1], f"{name}, chosen by {metric}", rounds)


def rounds_table(rounds: Sequence[dict[str, Any]], metric: str) -> str:
    """A line for each round: its pseudo-labels, figures of its head on val, and whether it stands."""
    rows = []
    for one in rounds:
        first = one["number"] == 0
        cells = ["-" if first else f"{one['n_pseudo']:,}", "-" if first else f"{sum(one['n_yes']):,}"]
        cells += ["-" if one.get("changed") is None else f"{one['changed']:,}"]
        cells += ["-" if one.get("agreement") is None else f"{one['agreement']:.3f}"]
        figures = metric_cells(MetricRow.recorded("", one["figures"]), metric)
        rows.append([one["number"], *cells, *figures, verdict(one)])
    head = ("round", "rows", "yes", "changed", "agreement", *metric_header(metric))
    return table(head, rows)


def verdict(one: dict[str, Any]) -> str:
    """What became of a round, and by how much val moved against the best before it."""
    if one["number"] == 0:
        return "supervised"
    mean, low, high = one["difference"]
    moved = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    anew = ", encoders anew" if one.get("refitted") else ""
    return f"{'accepted' if one['accepted'] else 'reverted'}: {moved}{anew}"
