"""Tables as people have them (CSV, TSV, Parquet, JSON Lines, Excel): a header, cells by column, and the place of each row for messages."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.text import shown
from mmfeat.data.tables.delimited import Record, read_delimited, repaired
from mmfeat.data.tables.table_forms import SUFFIXES, form_of, is_table
from mmfeat.data.tables.text_files import read_text, refuse_damage

__all__ = ["SUFFIXES", "Table", "is_blank", "is_table", "json_of", "kind_of", "plain_text", "read_table"]


class Table:
    """Rows under a header.

    Attributes
    ----------
    header : list of str
        Names of the columns, each once.
    plain : list of str
        Those whose cells may be texts, numbers or yes and no.
    notes : dict of int to str
        Row to what had to be recovered.
    hints : list of str
        What people should know about the file, a line each.
    inside : dict of str to str
        Column that lies in another to that one: `image.path` to `image`.
    pictures : dict of str to str
        Column that holds images themselves to the one of their names; an empty text where they have none.
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
            raise DataError(f"{file}: column {shown(repr(repeated[0]))} stands there twice. Rename one of them")
        if not n_rows or not header:
            raise DataError(f"{file}: has no {'column' if n_rows else 'row'}. A table has at least one")

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """The cells of a column: texts, or what Parquet and JSON hold; None where there is nothing."""

    def where(self, row: int) -> str:
        """A row's place, to stand right behind the file's name."""
        return f" row {row + 1}"

    def place(self, row: int) -> str:
        """The file's name and a row's place."""
        return f"{self.file.name}{self.where(row)}"

    def repair(self, columns: Collection[str]) -> list[int]:
        """Make text UTF-8; rows whose cells in `columns` had to be changed for that.

        Raises
        ------
        DataError
            Text of another column is not UTF-8.
        """
        return []

    def texts(self, name: str) -> list[str]:
        """The cells of a column as texts; a blank one where there is nothing, lines where there is a list of texts.

        Raises
        ------
        DataError
            A cell holds what is no text.
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
        """Texts; a lone surrogate for each byte that is not UTF-8, until `repair` has seen it."""
        at = self.header.index(name)
        return [record.cells[at] for record in self._records]

    def where(self, row: int) -> str:
        """The line that a record begins at."""
        return f":{self._records[row].line}"

    def repair(self, columns: Collection[str]) -> list[int]:
        """As :func:`mmfeat.data.tables.delimited.repaired` does."""
        self._records = list(repaired(self.file, self._records, [self.header.index(name) for name in columns]))
        return [row for row, record in enumerate(self._records) if record.damaged]


class ObjectTable(Table):
    """JSON objects, a row each; a key that an object has not is a cell with nothing in it.

    Parameters
    ----------
    lines : list of int, optional
        The line of each.
    """

    def __init__(self, file: Path, rows: list[dict[str, Any]], lines: list[int] | None = None) -> None:
        self._rows, self._lines = rows, lines
        super().__init__(file, list(dict.fromkeys(key for row in rows for key in row)), len(rows))

    def column(self, name: str) -> list[Any]:
        """What stands under a key."""
        return [row.get(name) for row in self._rows]

    def where(self, row: int) -> str:
        """The line, where there are some."""
        return f":{self._lines[row]}" if self._lines else super().where(row)


def read_table(file: Path, recover: bool = False) -> Table:
    """A table of any kind, told by its content; a name counts only where a text could be read in two ways.

    Parameters
    ----------
    recover : bool
        Whether records that are not valid CSV may be recovered; otherwise they are an error.

    Raises
    ------
    DataError
        It cannot be read, is empty or malformed, or is no table.
    """
    form = form_of(file)
    if form == "parquet":
        from mmfeat.data.tables.parquet import ParquetTable

        return ParquetTable(file)
    if form == "xlsx":
        from mmfeat.data.tables.workbooks import read_workbook

        header, records, hints = read_workbook(file)
        table = TextTable(file, header, records)
        table.hints = hints
        return table
    if form == "json":
        return _read_json_lines(file)
    found = read_delimited(file, recover)
    table = TextTable(file, found.header, found.records)
    table.hints = found.file.about(file)
    return table


def _read_json_lines(file: Path) -> ObjectTable:
    rows, lines = [], []
    found = read_text(file)
    for number, line in enumerate(found.text.split("\n"), 1):
        if not line.strip():
            continue
        refuse_damage(file, number, line)
        try:
            row = _json_of_text(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}:{number}: not JSON: {one_line(error)}. Each line holds one object") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}:{number}: {kind_of(row)}, and each line holds one object: {{...}}")
        rows.append(row)
        lines.append(number)
    table = ObjectTable(file, rows, lines)
    table.hints = found.about(file)
    return table


def json_of(data: bytes) -> Any:
    """What JSON says, with a question mark for a lone surrogate, which no other file could hold.

    Raises
    ------
    ValueError, RecursionError
        It is no JSON, or none in UTF-8.
    """
    return _json_of_text(data.decode("utf-8-sig"))


def _json_of_text(text: str) -> Any:
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def is_blank(cell: Any) -> bool:
    """Whether a cell holds nothing: null, NaN as pandas writes it, or blank text."""
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def plain_text(cell: Any) -> str | None:
    """A single value as text, a whole number without a fraction; None for what is no text: a list, a struct, bytes."""
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
    """What a value is, in a word or two, for messages."""
    names = {
        list: "a list",
        tuple: "a pair",
        dict: "a struct",
        bytes: "bytes",
        bool: "true or false",
        type(None): "nothing",
    }
    return names.get(type(cell)) or ("a number" if isinstance(cell, int | float) else "text")
