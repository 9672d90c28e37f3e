"""The table of every reader: a header, cells by column, and the place of each row for messages."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError
from mmfeat.common.text import shown
from mmfeat.data.tables.delimited import Record, repaired


class Table(ABC):
    """Rows under a header.

    Attributes
    ----------
    header : list of str
        Names of the columns, unique.
    plain : list of str
        Columns whose cells may be texts, numbers or booleans.
    notes : dict of int to str
        Recovered rows, with a note each.
    hints : list of str
        Hints about the file for people, one line each.
    inside : dict of str to str
        Nested columns, with the column that contains them: `image.path` to `image`.
    pictures : dict of str to str
        Columns of embedded images, with the column of their names; an empty text without one.
    """

    def __init__(self, file: Path, header: list[str], n_rows: int) -> None:
        self.file, self.header, self.n_rows = file, header, n_rows
        self.plain = header
        self.notes: dict[int, str] = {}
        self.hints: list[str] = []
        self.inside: dict[str, str] = {}
        self.pictures: dict[str, str] = {}
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise DataError(f"{file}: column {shown(repr(repeated[0]))} occurs twice. Rename one of them")
        if not n_rows or not header:
            raise DataError(f"{file}: has no {'column' if n_rows else 'row'}. A table has at least one")

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """The cells of a column: texts, or values of Parquet and JSON; None for an empty cell."""

    def first_cells(self, name: str, n: int) -> list[Any]:
        """The first `n` cells of a column."""
        return self.column(name)[:n]

    def where(self, row: int) -> str:
        """A row's place, to be appended to the file's name."""
        return f" row {row + 1}"

    def place(self, row: int) -> str:
        """The file's name and a row's place."""
        return f"{self.file.name}{self.where(row)}"

    def repair(self, columns: Collection[str]) -> list[int]:
        """Make text valid UTF-8; returns the rows whose cells in `columns` were changed.

        Raises
        ------
        DataError
            Text of another column is not UTF-8.
        """
        return []

    def texts(self, name: str) -> list[str]:
        """The cells of a column as texts; empty for an empty cell, one line per element of a list.

        Raises
        ------
        DataError
            A cell is not text.
        """
        return [
            cell if type(cell) is str else self._text(name, row, cell) for row, cell in enumerate(self.column(name))
        ]

    def _text(self, name: str, row: int, cell: Any) -> str:
        if isinstance(cell, list):
            parts = [self._text(name, row, part) for part in cell]
            return "\n".join(part for part in parts if part.strip())
        text = plain_text(cell)
        if text is None:
            raise DataError(
                f"{self.file}{self.where(row)}: column {shown(repr(name))} holds {kind_of(cell)}, and texts are needed. "
                f"Name another column"
            )
        return text


class TextTable(Table):
    """A CSV or TSV file."""

    def __init__(self, file: Path, header: list[str], records: list[Record]) -> None:
        super().__init__(file, header, len(records))
        self._records = records
        self.notes = {row: record.note for row, record in enumerate(records) if record.note}

    def column(self, name: str) -> list[str]:
        """Texts, with a lone surrogate for each byte that is not UTF-8 until `repair` replaces it."""
        at = self.header.index(name)
        return [record.cells[at] for record in self._records]

    def where(self, row: int) -> str:
        """The first line of a record."""
        return f":{self._records[row].line}"

    def repair(self, columns: Collection[str]) -> list[int]:
        """As :func:`mmfeat.data.tables.delimited.repaired` does."""
        self._records = list(repaired(self.file, self._records, [self.header.index(name) for name in columns]))
        return [row for row, record in enumerate(self._records) if record.damaged]


class ObjectTable(Table):
    """JSON objects, one for each row; a missing key is an empty cell.

    Parameters
    ----------
    lines : list of int, optional
        The line of each object.
    """

    def __init__(self, file: Path, rows: list[dict[str, Any]], lines: list[int] | None = None) -> None:
        self._rows, self._lines = rows, lines
        super().__init__(file, list(dict.fromkeys(key for row in rows for key in row)), len(rows))

    def column(self, name: str) -> list[Any]:
        """The values of a key."""
        return [row.get(name) for row in self._rows]

    def where(self, row: int) -> str:
        """The object's line if lines are known, otherwise its number."""
        return f":{self._lines[row]}" if self._lines else super().where(row)


def is_blank(cell: Any) -> bool:
    """Whether a cell is empty: null, NaN (written by pandas) or blank text."""
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def plain_text(cell: Any) -> str | None:
    """A single value as text, integers without a fraction; None for a list, a struct or bytes."""
    if isinstance(cell, str):
        return cell
    if is_blank(cell):
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, list | tuple | dict | bytes):
        return None
    return str(cell)


def kind_of(cell: Any) -> str:
    """The kind of a value in a word or two, for messages."""
    names = {
        list: "a list",
        tuple: "a pair",
        dict: "a struct",
        bytes: "bytes",
        bool: "true or false",
        type(None): "nothing",
    }
    return names.get(type(cell)) or ("a number" if isinstance(cell, int | float) else "text")
