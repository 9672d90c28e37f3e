"""The figures that the paper prints, from `paper.toml` beside this module. Ours are never written there."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("paper.toml")
FIGURES = ("mb", "seconds", "f1", "loss", "train_f1", "train_accuracy", "train_loss", "kaggle")
N_CLASSES = 18


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of a table of the paper.

    Attributes
    ----------
    name : str
        As printed.
    key : str
        The model, encoder or model of a comparison of heads that it is in mmfeat.
    settings : dict of str to Any
        `lr`, `batch_size` and `optimizer`, if the row has settings.
    figures : dict of str to float
        By the names in `FIGURES`.
    class_f1 : tuple of float
        F1 of its 18 classes, in-sample; empty without.
    """

    name: str
    key: str
    settings: dict[str, Any]
    figures: dict[str, float]
    class_f1: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper, or several that continue one another.

    Attributes
    ----------
    numbers : tuple of int
        Empty for the scores in its text.
    place : str
        The section that it belongs to.
    notes : tuple of str
        Where the paper contradicts itself, or says too little, about this table.
    """

    numbers: tuple[int, ...]
    title: str
    place: str
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its files, such as `table-1` or `tables-6-9`."""
        if not self.numbers:
            return self.title.lower()
        first, last = self.numbers[0], self.numbers[-1]
        return f"table-{first}" if first == last else f"tables-{first}-{last}"

    @property
    def label(self) -> str:
        """`Table 1`, `Tables 6 to 9`, or its title."""
        if not self.numbers:
            return self.title
        first, last = self.numbers[0], self.numbers[-1]
        return f"Table {first}" if first == last else f"Tables {first} to {last}"


@functools.cache
def paper_tables() -> tuple[PaperTable, ...]:
    """All tables of the paper, in its order."""
    raw = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(_table(table, raw["note"]) for table in raw["table"])


def paper_table(number: int) -> PaperTable:
    """The table with a number, or that which contains it; the scores of the submissions for 0."""
    return next(table for table in paper_tables() if number in (table.numbers or (0,)))


def _table(raw: dict[str, Any], notes: list[dict[str, Any]]) -> PaperTable:
    numbers = tuple(raw["numbers"])
    own = [note["text"] for note in notes if set(note["tables"]) & set(numbers)]
    rows = tuple(_row(row) for row in raw["rows"])
    return PaperTable(numbers=numbers, title=raw["title"], place=raw["place"], rows=rows, notes=tuple(own))


def _row(raw: dict[str, Any]) -> PaperRow:
    return PaperRow(
        name=raw["name"],
        key=raw.get("key", ""),
        settings={key: raw[key] for key in ("lr", "batch_size", "optimizer") if key in raw},
        figures={name: float(raw[name]) for name in FIGURES if name in raw},
        class_f1=tuple(raw.get("class_f1", ())),
    )
