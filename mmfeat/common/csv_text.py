"""CSV text, protected against cells that a spreadsheet would run as a formula.

A text that begins with `=`, `+`, `-`, `@`, a tab or a line break (also after blanks or apostrophes) gets a leading
apostrophe; :func:`unharmed` removes it. Numbers are unchanged, even if they are passed as text. A Kaggle submission is
written without this protection.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(
    r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]"
)  # formulas, and the apostrophes that hide them
_BREAK = "\r\n"  # the writer quotes cells that contain either character; lines then end with \n only
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")


def harmless(text: str) -> str:
    """Escape one cell: a text that looks like a formula gets a leading apostrophe."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.match(text) else text


def unharmed(cell: str) -> str:
    """Undo :func:`harmless`: the original text of a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def csv_text(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, guarded: bool = True, quoted: bool = False
) -> str:
    """Format a table as CSV with plain line feeds; None becomes a blank cell.

    Parameters
    ----------
    header : sequence of str
        Column names.
    rows : iterable of sequence
        The cells of each row.
    guarded : bool
        Escape texts that a spreadsheet would run as a formula, see :func:`harmless`.
    quoted : bool
        Quote every text.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator=_BREAK, quoting=csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL)
    for row in itertools.chain([header], rows):
        writer.writerow(_guarded(row) if guarded else row)
    return "".join(lines.texts)


class _Lines:
    """A file object for csv.writer that collects lines."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, line: str) -> None:
        self.texts.append(line.removesuffix(_BREAK) + "\n")


def _guarded(row: Sequence[Any]) -> list[Any]:
    return [harmless(cell) if isinstance(cell, str) else cell for cell in row]
