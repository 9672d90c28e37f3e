"""A table of the paper beside ours: theirs, ours and the difference, as CSV, Markdown, JSON and a table for a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.json_shapes import Shape
from mmfeat.report.markdown import escaped, markdown_table
from mmfeat.report.table_layout import Cell, Table, number, outside, table

THEIRS, OURS, DIFFERENCE = "theirs", "ours", "difference"
_CSV = ("row", "figure", THEIRS, OURS, "ours_low", "ours_high", DIFFERENCE, "note")
_LONGEST = 1000  # characters of a note


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of the paper and ours.

    Attributes
    ----------
    theirs, ours : float or None
        None if there is none.
    low, high : float or None
        95 % interval of ours over rows.
    compared : bool
        Whether both are the same measure on rows of the same kind, so that a difference has a meaning.
    """

    theirs: float | None = None
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    compared: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus theirs; None if they are not comparable."""
        if self.theirs is None or self.ours is None or not self.compared:
            return None
        return self.ours - self.theirs

    def part(self, name: str, digits: int, *, short: bool = False) -> str:
        """The text of `theirs`, `ours` (with its interval, unless `short`) or `difference`."""
        if name == DIFFERENCE:
            return "" if self.difference is None else f"{self.difference:+,.{digits}f}"
        value = self.theirs if name == THEIRS else self.ours
        text = number(value, digits, unknown="")
        if name == OURS and not short and value is not None and self.low is not None and self.high is not None:
            return f"{text} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"
        return text


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A row: its name, its figures by title, and a note."""

    name: str
    figures: dict[str, Figure]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table beside the paper's.

    Attributes
    ----------
    name : str
        The name of its files.
    title : str
        Its heading, such as `Table 1: Encoders`.
    digits : dict of str to int
        Title of each figure to its decimal places, in the order of the columns.
    by_class : bool
        Whether figures are the lines and rows the columns, as in the tables by class.
    notes : list of str
        How to read it, and where the paper contradicts itself.
    """

    name: str
    title: str
    digits: dict[str, int]
    rows: list[SheetRow]
    by_class: bool = False
    notes: list[str] = field(default_factory=list)

    def groups(self) -> list[tuple[str, list[str]]]:
        """The title of each group of columns, and the parts that it has: `theirs`, `ours`, `difference`."""
        titles = [row.name for row in self.rows] if self.by_class else list(self.digits)
        found = []
        for i, title in enumerate(titles):
            figures = list(self.rows[i].figures.values()) if self.by_class else self._column(title)
            parts = [THEIRS] * any(one.theirs is not None for one in figures)
            parts += [OURS] * (not parts or any(one.ours is not None for one in figures))
            found.append((title, [*parts, *[DIFFERENCE] * any(one.difference is not None for one in figures)]))
        return found

    def lines(self) -> list[list[str]]:
        """The cells: the name of each line, and the parts of its figures below :meth:`groups`."""
        parts = [parts for _, parts in self.groups()]
        if self.by_class:
            across = [
                (title, [row.figures.get(title, Figure()) for row in self.rows], [digits] * len(self.rows))
                for title, digits in self.digits.items()
            ]
        else:
            digits = list(self.digits.values())
            across = [(row.name, [row.figures.get(t, Figure()) for t in self.digits], digits) for row in self.rows]
        return [
            [
                name,
                *(one.part(part, n) for one, n, own in zip(figures, digits, parts, strict=True) for part in own),
            ]
            for name, figures, digits in across
        ]

    def csv(self) -> str:
        """One line for each figure, in full precision."""
        return csv_text(_CSV, self._csv_rows())

    def markdown(self) -> str:
        """The table and its notes as a section."""
        head = ["", *(f"{title}: {part}" for title, parts in self.groups() for part in parts)]
        rows = self.lines()
        if noted := not self.by_class and any(row.note for row in self.rows):
            rows = [[*line, row.note] for line, row in zip(rows, self.rows, strict=True)]
        lines = [f"## {escaped(self.title, 200)}", "", *markdown_table([*head, *["note"] * noted], rows), ""]
        return "\n".join([*lines, *(f"- {escaped(note, _LONGEST)}" for note in self.notes), ""])

    def table(self) -> Table:
        """For a terminal: a line for each row; not by class."""
        groups, rows = self.groups(), []
        for row in self.rows:
            cells: list[Any] = [outside(row.name)]
            for title, parts in groups:
                one, digits = row.figures.get(title, Figure()), self.digits[title]
                values = {THEIRS: one.theirs, OURS: one.ours, DIFFERENCE: one.difference}
                cells += [Cell(one.part(part, digits, short=True), values[part]) for part in parts]
            rows.append([*cells, row.note])
        head = [self.title, *(f"{title} {part}" for title, parts in groups for part in parts)]
        return table(head, rows, title=self.title, first="row")

    def as_json(self) -> dict[str, Any]:
        """JSON values, from which :func:`sheet_of` makes it again."""
        return dataclasses.asdict(self)

    def _column(self, title: str) -> list[Figure]:
        return [row.figures[title] for row in self.rows if title in row.figures]

    def _csv_rows(self) -> Iterable[Sequence[Any]]:
        for row in self.rows:
            for title, one in row.figures.items():
                numbers = (one.theirs, one.ours, one.low, one.high, one.difference)
                yield [row.name, title, *("" if n is None else f"{n:.6f}" for n in numbers), row.note]


_NUMBER: Shape = (float, None)
SHEET: dict[str, Shape] = {
    "name": str,
    "title": str,
    "digits": {str: int},
    "rows": [
        {
            "name": str,
            "figures": {str: {**dict.fromkeys((THEIRS, OURS, "low", "high"), _NUMBER), "compared": bool}},
            "note": str,
        }
    ],
    "by_class": bool,
    "notes": [str],
}


def sheet_of(values: dict[str, Any]) -> Sheet:
    """The sheet of JSON values whose shape is `SHEET`."""
    rows = [
        SheetRow(name=row["name"], note=row["note"], figures={t: Figure(**one) for t, one in row["figures"].items()})
        for row in values["rows"]
    ]
    return Sheet(**{**values, "rows": rows})
