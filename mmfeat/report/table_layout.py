"""Tables whose cells have a value and its text: aligned text that fits a terminal, or JSON values in full precision."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmfeat.common.progress import clock
from mmfeat.common.text import shown

GAP = 3  # spaces between two columns
NOTE = "note"
_LEAST_NOTE, _LEAST_TEXT = 24, 12  # characters of a wrapped note, and of a shortened first cell

# What leaves a narrow terminal first: the highest number, among equals the rightmost. 0 stays; other columns have 1.
_RANKS = {
    "samples F1": 0,
    "M parameters": 2,
    "input": 2,
    "seconds": 2,
    "time": 2,
    "one seed": 2,
    "micro F1": 3,
    "from": 3,
    "weights": 3,
    "width": 3,
    "model": 3,
    "missing modality": 2,
    "unreadable": 2,
    "changed": 3,
    "agreement": 3,
    "loss": 4,
    "made from": 4,
    "train s": 4,
    "label accuracy": 5,
    "ECE": 5,
    "created": 5,
    "created (UTC)": 5,
    "last write (UTC)": 5,
    "segments": 5,
    "probes": 5,
    "µs per row": 6,
    "heads MB": 6,
}
_UNITS = {
    "MB": "MB",
    "heads MB": "MB",
    "checkpoint MB": "MB",
    "store MB": "MB",
    "M parameters": "million",
    "seconds": "s",
    "time": "s",
    "train s": "s",
    "about": "s",
    "µs per row": "µs",
    "samples/s": "1/s",
    "rows/s": "1/s",
}


class Cell(str):
    """The text of a cell, with its value.

    Attributes
    ----------
    value : Any
        A JSON value in full precision.
    spread : float or None
        The number after `±` in the text; it has a column of its own in JSON.
    """

    value: Any
    spread: float | None

    def __new__(cls, text: str, value: Any, spread: float | None = None) -> Cell:
        """A cell with this text."""
        self = super().__new__(cls, text)
        self.value, self.spread = value, spread
        return self


class Unshown(str):
    """The title of a column that only JSON has."""


def number(value: float | None, digits: int = 3, *, spread: float | None = None, unknown: str = "-") -> Cell:
    """A number, and its spread if it has one; `unknown` if the value is None."""
    if value is None:
        return Cell(unknown, None)
    text = f"{value:,.{digits}f}"
    return Cell(text if spread is None else f"{text} ± {spread:,.{digits}f}", value, spread)


def signed(value: float) -> Cell:
    """A difference, with its sign."""
    return Cell(f"{value:+.4f}", value)


def count(n: int | None) -> Cell:
    """A number of things."""
    return Cell("-", None) if n is None else Cell(f"{n:,}", int(n))


def duration(seconds: float | None) -> Cell:
    """A time, such as `3:05`."""
    return Cell("-", None) if seconds is None else Cell(clock(seconds), seconds)


def outside(value: object, limit: int = 60) -> Cell:
    """Outside text: escaped and shortened as text, complete in JSON."""
    return Cell(shown(value, limit), str(value))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes
    ----------
    head : sequence of str
        The titles.
    rows : sequence of sequence of str, or str
        The cells: each a `Cell`, or a text that is its own value. A row may have one more cell than the head: a note. A
        text instead of a row is a heading of the rows below it.
    left : int
        The first columns are aligned to the left, the others to the right.
    title, first : str
        What the table shows, and the JSON name of its first column, if the first title is not that column's name.
    keep : collection of str
        Columns that stay at any width.
    most : int or None
        The number of rows in the text; JSON has all.
    note : str
        The JSON name of the notes.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str] | str]
    left: int = 1
    title: str = ""
    first: str = ""
    keep: Collection[str] = ()
    most: int | None = None
    note: str = NOTE

    def __str__(self) -> str:
        """All columns as text."""
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Aligned lines; within `width` characters, the less important columns are hidden and long texts shortened."""
        at, bare = self._fitting(width)
        widths = [self._widths(bare)[i] for i in at]
        room = None if width is None else width - sum(widths[1:]) - GAP * (len(at) - 1) - self._note_width()
        if room is not None and widths:
            widths[0] = min(widths[0], max(_LEAST_TEXT, room))
        lines: list[str] = []
        for row in [self.head, *self.rows[: self.most]]:
            if isinstance(row, str):
                lines.append(row)
                continue
            cells = [shown(row[at[0]], widths[0]), *(self._cell_text(row, i, bare) for i in at[1:])]
            parts = [
                cell.ljust(w) if i < self.left else cell.rjust(w) for i, cell, w in zip(at, cells, widths, strict=True)
            ]
            lines += _with_note((" " * GAP).join(parts), self._note(row), width)
        return "\n".join(lines)

    def hidden(self, width: int | None) -> list[str]:
        """The titles of the columns that :meth:`text` hides, and spreads that it hides."""
        at, bare = self._fitting(width)
        spreads = [f"± of {self.head[i]}" for i in at if bare and self._widths(True)[i] < self._widths(False)[i]]
        return [*(self.head[i] for i in self._shown() if i not in at), *spreads]

    def as_json(self) -> dict[str, Any]:
        """`title`, `columns` and `rows` as JSON values; a spread, a heading and a note are columns of their own."""
        names = [self.first or self.head[0], *self.head[1:]] if self.head else []
        rows = [row for row in self.rows if not isinstance(row, str)]
        spreads = {i for row in rows for i in range(len(names)) if getattr(row[i], "spread", None) is not None}
        noted, headed = any(self._note(row) for row in rows), len(rows) < len(self.rows)
        columns = [{"name": "group"}] if headed else []
        for i, name in enumerate(names):
            unit = {"unit": _UNITS[name]} if name in _UNITS else {}
            columns += [{"name": str(name), **unit}, *([{"name": f"{name} ±", **unit}] if i in spreads else [])]
        columns += [{"name": self.note}] if noted else []
        found, group = [], None
        for row in self.rows:
            if isinstance(row, str):
                group = row.rstrip(":")
                continue
            values = [group] if headed else []
            for i in range(len(names)):
                values += [_value(row[i]), *([_plain(getattr(row[i], "spread", None))] if i in spreads else [])]
            found.append(values + ([_value(row[-1]) if self._note(row) else None] if noted else []))
        return {"title": self.title, "columns": columns, "rows": found}

    def _shown(self) -> list[int]:
        return [i for i, name in enumerate(self.head) if not isinstance(name, Unshown)]

    def _cell_text(self, row: Sequence[str], i: int, bare: bool) -> str:
        """The text of a cell; if `bare`, without a spread unless the column stays at any width."""
        return row[i].partition(" ± ")[0] if bare and isinstance(row[i], Cell) and self._rank(i) else row[i]

    def _widths(self, bare: bool) -> list[int]:
        rows = [self.head, *(row for row in self.rows[: self.most] if not isinstance(row, str))]
        return [max(len(self._cell_text(row, i, bare)) for row in rows) for i in range(len(self.head))]

    def _note(self, row: Sequence[str]) -> str:
        return str(row[len(self.head)]) if len(row) > len(self.head) else ""

    def _note_width(self) -> int:
        longest = max((len(self._note(row)) for row in self.rows[: self.most] if not isinstance(row, str)), default=0)
        return min(longest, _LEAST_NOTE) + GAP if longest else 0

    def _rank(self, i: int) -> int:
        name = self.head[i]
        return 0 if i == 0 or name in self.keep else _RANKS.get(name, 0 if i < self.left else 1)

    def _fitting(self, width: int | None) -> tuple[list[int], bool]:
        """The columns that are shown within a width, and whether spreads leave before columns do."""
        at, note, bare = self._shown(), self._note_width(), False
        while width is not None:
            widths = self._widths(bare)
            if sum(widths[i] for i in at) + GAP * (len(at) - 1) + note <= width:
                break
            last = max(at, key=lambda i: (self._rank(i), i))
            if not self._rank(last):
                break
            if self._rank(last) == 1 and not bare:
                bare = True
            else:
                at.remove(last)
        return at, bare


def table(head: Sequence[str], rows: Iterable[Sequence[Any] | str], left: int = 1, **more: Any) -> Table:
    """A table; see :class:`Table`. Cells that are not texts become texts."""
    return Table(
        head=head, rows=[row if isinstance(row, str) else [*map(_cell, row)] for row in rows], left=left, **more
    )


def terminal_width() -> int | None:
    """Characters of a line of the terminal; None if the output is a file or a pipe, which get everything."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def about_hidden(names: Sequence[str], remedy: str) -> str:
    """The line about columns that a narrow terminal hides; empty if there are none."""
    return f"Columns without room here: {', '.join(dict.fromkeys(names))}. All: {remedy}." if names else ""


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else count(value) if isinstance(value, int) else Cell(str(value), value)


def _with_note(line: str, note: str, width: int | None) -> list[str]:
    """A row and its note, which continues below itself where the line ends."""
    if not note.strip():
        return [line.rstrip()]
    start = f"{line}{' ' * GAP}"
    if width is None:
        return [start + note]
    first, *rest = textwrap.wrap(note, max(_LEAST_NOTE, width - len(start)))
    return [start + first, *(" " * len(start) + one for one in rest)]


def _value(cell: str) -> Any:
    if isinstance(cell, Cell):
        return _plain(cell.value)
    return None if cell in ("", "-") else cell


def _plain(value: Any) -> Any:
    """A JSON value: an undefined number is null."""
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    try:
        found = float(value)
    except (TypeError, ValueError):
        return str(value)
    return found if math.isfinite(found) else None
