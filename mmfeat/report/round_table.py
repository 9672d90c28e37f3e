"""The rounds of self-training as a table for the terminal, and as files in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.files import write_atomic
from mmfeat.config.schema import SelftrainConfig
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.plots import plot_rounds
from mmfeat.report.table_layout import Table, count, number, table
from mmfeat.report.text_tables import metric_cells, metric_header, metric_title
from mmfeat.runs.ensembles import RECIPE_TEXTS

_COLUMNS = ("number", "accepted", "refitted", "n_pseudo", "n_unknown", "changed", "agreement", "truth")
_METRICS = ("samples_f1", "micro_f1", "macro_f1", "map", "loss")

FILES = ("rounds.csv", "rounds.png")


def write_rounds(folder: Path, rounds: Sequence[dict[str, Any]], *, classes: Sequence[str], metric: str) -> None:
    """Write `rounds.csv` (a row for each round; the last columns count pseudo-positives by class) and `rounds.png`."""
    header = [*_COLUMNS, "difference", "low", "high", *_METRICS, *(f"yes_{c}" for c in classes)]
    rows = []
    for one in rounds:
        difference = one["difference"] or ("", "", "")
        rows.append([*(one[c] for c in _COLUMNS), *difference, *(one["figures"][f] for f in _METRICS), *one["n_yes"]])
    write_atomic(folder / FILES[0], csv_text(header, rows))
    plot_rounds(folder / FILES[1], rounds, metric=metric)


def rounds_table(rounds: Sequence[dict[str, Any]], metric: str) -> Table:
    """A row for each round: its pseudo-labels, metrics of its judged model on val, and whether it was accepted."""
    rows = []
    for one in rounds:
        first = one["number"] == 0
        cells = [count(None if first else one["n_pseudo"]), count(None if first else sum(one["n_yes"]))]
        cells += [count(one.get("changed")), number(one.get("agreement"))]
        figures = metric_cells(MetricRow.recorded("", one["figures"]))
        rows.append([one["number"], *cells, *figures, verdict(one)])
    head = ("round", "rows", "positives", "changed", "agreement", *metric_header(metric))
    return table(head, rows, title="rounds", keep=[metric_title(metric)])


def about_judged(selftrain: SelftrainConfig) -> str:
    """The model of a round that val judges, in words."""
    if selftrain.policy != "paper":
        return "a small MLP"
    return f"the fused models ({selftrain.teacher}: {RECIPE_TEXTS[selftrain.teacher].partition(' (')[0]})"


def verdict(one: dict[str, Any]) -> str:
    """Whether a round was accepted, and the difference of the metric on val from the best earlier round."""
    if one["number"] == 0:
        return "supervised"
    mean, low, high = one["difference"]
    moved = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    tuned = ", encoders fine-tuned" if one.get("refitted") else ""
    return f"{'accepted' if one['accepted'] else 'reverted'}: {moved}{tuned}"
