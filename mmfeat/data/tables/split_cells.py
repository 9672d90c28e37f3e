"""Splits from cells: names such as train and dev, or numbers of folds."""

from __future__ import annotations

import re

from mmfeat.common.errors import DataError
from mmfeat.common.labels import UNLABELLED
from mmfeat.common.spelling import normal_name
from mmfeat.common.text import shown
from mmfeat.config.schema import MAX_FOLD
from mmfeat.data.tables.table import Table

SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
    UNLABELLED: (UNLABELLED, "unlabeled"),
}
_NAMES = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_NUMBER = re.compile(r"(\d{1,9})(?:\.0+)?")  # some programs write 2 as 2.0 if there are blank cells


def split_of_cell(text: str) -> str | None:
    """`train`, `val`, `test`, `unlabelled`, a fold's number such as `3`, or empty for a blank cell; None for another text."""
    text = normal_name(text).casefold()
    if not text:
        return ""
    if number := _NUMBER.fullmatch(text):
        return str(int(number[1])) if int(number[1]) <= MAX_FOLD else None
    return _NAMES.get(text)


def split_cells(table: Table, column: str) -> list[str]:
    """The split of each row, as :func:`split_of_cell` reads it.

    Raises
    ------
    DataError
        A cell holds something else; the message names its row.
    """
    found = []
    for row, text in enumerate(table.texts(column)):
        split = split_of_cell(text)
        if split is None:
            raise DataError(
                f"{table.file}{table.where(row)}: column {shown(repr(column))} holds {shown(repr(text))}. Write one of: "
                f"{', '.join(SPELLINGS)}, or a fold's number from 0 to {MAX_FOLD}; or name another column: --split-column COLUMN"
            )
        found.append(split)
    return found


def looks_like_splits(cells: list[str]) -> bool:
    """Whether texts are names of splits: at least two, and nothing else. Numbers may mean anything."""
    names = {_NAMES.get(normal_name(text).casefold()) for text in cells if text.strip()}
    return len(names) > 1 and None not in names
