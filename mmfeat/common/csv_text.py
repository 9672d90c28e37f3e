"""CSV files for people, with one rule for cells that a spreadsheet might take as a formula.

A text that begins with `=`, `+`, `-`, `@`, a tab or a line break (also behind blanks or apostrophes) gets an apostrophe
before it; :func:`unharmed` takes it off again. Numbers stay as they are, also those that are given as texts. A Kaggle
submission is written to the letter.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(
    r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]"
)  # what a spreadsheet may take as one, or hides it
_BREAK = "\r\n"  # cells with either in them are quoted; lines end with the second alone
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes as a formula: texts that look like one get an apostrophe in front."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.match(text) else text


def unharmed(cell: str) -> str:
    """The text of a cell that :func:`harmless` made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def csv_text(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, guarded: bool = True, quoted: bool = False
) -> str:
    """A table as CSV with plain line feeds; None is a blank cell.

    Parameters
    ----------
    guarded : bool
        Whether texts that a spreadsheet might take as formulas are made harmless.
    quoted : bool
        Whether all texts are quoted.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator=_BREAK, quoting=csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL)
    for row in itertools.chain([header], rows):
        writer.writerow(_guarded(row) if guarded else row)
    return "".join(lines.texts)


class _Lines:
    """What a csv.writer writes to, line by line."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, line: str) -> None:
        self.texts.append(line.removesuffix(_BREAK) + "\n")


def _guarded(row: Sequence[Any]) -> list[Any]:
    return [harmless(cell) if isinstance(cell, str) else cell for cell in row]
