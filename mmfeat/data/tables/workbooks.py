"""Excel workbooks (.xlsx): reads the first sheet as a table of texts, with openpyxl if it is installed."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError, DataError, one_line
from mmfeat.common.extras import require
from mmfeat.common.text import counted, shown
from mmfeat.data.tables.delimited import Record

_MOST = 2**32  # bytes of an unpacked workbook
_SAVE = "Save the sheet as CSV (UTF-8)"


def read_workbook(file: Path) -> tuple[list[str], list[Record], list[str]]:
    """The header, the rows and hints of the first sheet; of a formula, the saved value is read.

    Raises
    ------
    DataError
        openpyxl is not installed, or the workbook cannot be read or is not a table.
    """
    try:
        openpyxl = require("openpyxl", "xlsx")
    except ConfigError:
        raise DataError(
            f"{file}: an Excel workbook. {_SAVE}, or install its reader: pip install 'mmfeat[xlsx]'"
        ) from None
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST:
                raise DataError(f"{file}: more than {_MOST >> 30} GB when unpacked. {_SAVE}")
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            sheets = book.worksheets
            rows = list(sheets[0].iter_rows(values_only=True)) if sheets else []
            name, more = (sheets[0].title, len(sheets) - 1) if sheets else ("", 0)
        finally:
            book.close()
    except DataError:
        raise
    except Exception as error:  # openpyxl, zipfile and the XML reader raise errors of their own
        raise DataError(f"{file}: a workbook that cannot be read: {one_line(error)}. {_SAVE}") from None
    hints = (
        [
            f"  sheet {shown(repr(name))} is read, and {counted(more, 'further sheet')} {'is' if more == 1 else 'are'} ignored"
        ]
        if more
        else []
    )
    return *_records(file, rows), hints


def _records(file: Path, rows: list[tuple[Any, ...]]) -> tuple[list[str], list[Record]]:
    filled = [(line, [_text(cell) for cell in row]) for line, row in enumerate(rows, 1)]
    filled = [(line, cells) for line, cells in filled if any(cells)]
    if len(filled) < 2:
        raise DataError(f"{file}: its first sheet has {'a header and no row' if filled else 'no cell'}. {_SAVE}")
    width = max(column + 1 for _, cells in filled for column, cell in enumerate(cells) if cell)
    top, header = filled[0][0], [name.strip() for name in filled[0][1][:width]]
    header += [""] * (width - len(header))
    if "" in header:
        raise DataError(
            f"{file}:{top}: column {header.index('') + 1} has no name. Name it in the first row of the sheet"
        )
    padded = ((line, [*cells[:width], *[""] * (width - len(cells))]) for line, cells in filled[1:])
    return header, [Record(line=line, cells=cells) for line, cells in padded]


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell)
