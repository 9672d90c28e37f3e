"""Labels from cells: names in one column, or one column of 1, 0 and blank cells for each class."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import split_labels
from mmfeat.common.spelling import Spellings, normal_name
from mmfeat.common.text import counted, shown
from mmfeat.data.setting_names import SettingError
from mmfeat.data.tables.table import Table, is_blank, kind_of, plain_text

MARKS = (",", "|", ";")  # other usual separators of labels
_YES_NO = {
    None: -1,
    "": -1,
    0: 0,
    1: 1,
    "0": 0,
    "1": 1,
    "0.0": 0,
    "1.0": 1,
    "false": 0,
    "true": 1,
}
_ODD = 2  # a cell that is neither 1, nor 0, nor blank
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _label_of_cell(cell: Any) -> int:
    """1, 0, -1 for a blank cell, 2 for anything else."""
    try:
        found = _YES_NO.get(cell)
    except TypeError:  # a list
        return _ODD
    if found is None and isinstance(cell, str):
        found = _YES_NO.get(cell.strip().lower())
    return (-1 if is_blank(cell) else _ODD) if found is None else found


def first_invalid_cell(cells: list[Any]) -> tuple[int | None, bool]:
    """The row of the first cell that is neither 1, nor 0, nor blank, and whether a cell before it is filled."""
    filled = False
    for row, cell in enumerate(cells):
        value = _label_of_cell(cell)
        if value == _ODD:
            return row, filled
        filled = filled or value >= 0
    return None, filled


def indicator_labels(table: Table, names: Sequence[str]) -> np.ndarray:
    """Labels `(N, K)` int8 of columns of 1, 0 and blank cells: 1, 0 and -1; a missing column is -1 in every row.

    Raises
    ------
    DataError
        A cell holds something else, like 0.3.
    """
    labels = np.full((table.n_rows, len(names)), -1, np.int8)
    header = Spellings(table.header, f"{table.file}: column ")
    for k, name in enumerate(names):
        own = header.find(name)
        if own is None:
            continue
        cells = table.column(own)
        labels[:, k] = np.fromiter(map(_label_of_cell, cells), np.int8, len(cells))
        odd = np.flatnonzero(labels[:, k] == _ODD)
        if len(odd):
            raise DataError(
                f"{table.file}{table.where(odd[0])}: column {_quoted(name)} holds {_quoted(cells[odd[0]])}, and a column "
                f"of labels holds 1, 0 or nothing. Correct it, or leave the column out of the labels"
            )
    return labels


def apply_absent(labels: np.ndarray, absent: str) -> tuple[np.ndarray, str]:
    """Apply the meaning of blank cells (-1): returns labels `(N, K)` int8, and `negative` or `unknown`.

    Parameters
    ----------
    absent : str
        `negative`: blank cells are negatives, unless the whole row is blank; `unknown`; `auto`: unknown if the table has any
        explicit negative, otherwise negative.

    Raises
    ------
    DataError
        `absent` is `unknown` and there are no explicit negatives, so nothing could be learned.
    """
    has_negatives = bool((labels == 0).any())
    absent = ("unknown" if has_negatives else "negative") if absent == "auto" else absent
    if absent == "unknown":
        if not has_negatives:
            raise _no_negatives("the label columns hold no 0")
        return labels, absent
    labelled = (labels >= 0).any(1)
    return np.where(labelled[:, None] & (labels < 0), 0, labels).astype(np.int8), absent


def absent_of_names(absent: str) -> str:
    """The meaning of a label that a row does not name: `negative`.

    Raises
    ------
    DataError
        `absent` is `unknown`: label names have no explicit negatives.
    """
    if absent == "unknown":
        raise _no_negatives("label names give none")
    return "negative"


def _no_negatives(why: str) -> DataError:
    return DataError(
        f'absent = "unknown" requires explicit negatives, as in columns of 0, 1 and blank, and {why}. '
        f'Use: absent = "negative" under [data] (--absent negative)'
    )


@dataclass
class NamedLabels:
    """The labels of one column of names.

    Attributes
    ----------
    rows : list of (list of str) or None
        The names in each row; None for a blank cell (unlabelled).
    hints : list of str
        Suspicious cells, for people, one line each.
    split : bool
        Whether any cell was split, so that the separator matters.
    """

    rows: list[list[str] | None]
    hints: list[str]
    split: bool


def named_labels(table: Table, name: str, separator: str, *, closed: bool, chosen: bool = True) -> NamedLabels:
    """Read the label names in one column: texts are split; lists and integers are taken as they are.

    Parameters
    ----------
    closed : bool
        Whether there is a class list; then nothing about separators has to be guessed.
    chosen : bool
        Whether the user has chosen the separator. Otherwise cells that seem to hold several labels are an error.

    Raises
    ------
    DataError
        The column has fractions or values that are not names, or its cells use different separators.
    """
    cells = table.column(name)
    rows: list[list[str] | None] = []
    for row, cell in enumerate(cells):
        if isinstance(cell, str):
            rows.append(split_labels(cell, separator) or None)
        elif is_blank(cell):
            rows.append(None)
        else:
            parts = cell if isinstance(cell, list) else [cell]
            names = [_name(table, name, row, part=part) for part in parts]
            rows.append(list(dict.fromkeys(n for n in names if n)))
    if _all_numbers(table, name, cells):  # some programs write 2 as 2.0 if there are blank cells
        rows = [None if names is None else [str(int(float(n))) for n in names] for names in rows]
    if not closed and not chosen:
        _refuse_several(table, name, separator, cells=cells)
    hints = [] if closed else _separator_hints(table, name, separator, cells=cells)
    return NamedLabels(rows, hints, any(isinstance(cell, str) for cell in cells))


def _name(table: Table, name: str, row: int, *, part: Any) -> str:
    if isinstance(part, float) and not math.isnan(part) and not part.is_integer():
        raise _fraction(table, name, row, value=part)
    text = plain_text(part)
    if text is None:
        raise DataError(
            f"{table.file}{table.where(row)}: column {_quoted(name)} holds {kind_of(part)}, and labels are names"
        )
    return normal_name(text)


def _all_numbers(table: Table, name: str, cells: list[Any]) -> bool:
    """Whether all texts of a column are integers, some of them written like 2.0.

    Raises
    ------
    DataError
        All are numbers and one has a fraction: not a column of labels.
    """
    first, pointed = None, False
    for row, cell in enumerate(cells):
        if is_blank(cell):
            continue
        if not isinstance(cell, str) or not _NUMBER.fullmatch(cell.strip()):
            return False
        pointed = pointed or "." in cell
        if first is None and not cell.strip().lstrip("+-").isdigit() and not float(cell).is_integer():
            first = row
    if first is not None:
        raise _fraction(table, name, first, value=cells[first])
    return pointed


def _fraction(table: Table, name: str, row: int, *, value: Any) -> DataError:
    return SettingError(
        f"{table.file}{table.where(row)}: column {_quoted(name)} holds {_quoted(value)}, and labels are names, not measures.",
        [[("labels", "COLUMN")]],
    )


def _separator_hints(table: Table, name: str, separator: str, *, cells: list[Any]) -> list[str]:
    """Hints about cells that seem to use another separator.

    Raises
    ------
    DataError
        Several other separators occur, and the one in use does not, or it is a space, which may follow any separator.
    """
    first: dict[str, int] = {}
    used = False
    for row, cell in enumerate(cells):
        if isinstance(cell, str):
            used = used or separator in cell.strip()
            for mark in MARKS:
                if mark not in first and mark not in separator and mark in cell:
                    first[mark] = row
    examples = [f"{_quoted(cells[row])} ({table.place(row)})" for row in first.values()]
    split = "at spaces" if separator == " " else f"at {separator!r}"
    if len(first) > 1 and (separator == " " or not used):
        raise SettingError(
            f"{table.file}: column {_quoted(name)} mixes separators: {' and '.join(examples[:3])}, split {split}. "
            f"Write one between all labels and name it, or name every label in a class list.",
            [[("separator", next(iter(first))), ("classes", "FILE")]],
        )
    return [
        f'  labels are split {split}, and {mark!r} is in {example}. If it separates labels, set separator = "{mark}" under '
        f"[data] in mmfeat.toml, then: mmfeat init"
        for mark, example in zip(first, examples, strict=True)
    ]


def _refuse_several(table: Table, name: str, separator: str, *, cells: list[Any]) -> None:
    """Refuse cells that another separator splits into fewer different labels than the one in use.

    Raises
    ------
    DataError
        There are such cells; the message has the options to type.
    """
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    mark = better_separator(texts, separator)
    if not mark:
        return
    rows = [row for row, cell in enumerate(cells) if isinstance(cell, str) and mark in cell]
    split = "spaces" if separator == " " else repr(separator)
    raise SettingError(
        f"{table.file}: {len(rows):,} of {len(texts):,} cells of column {_quoted(name)} hold {mark!r}, as in "
        f"{_quoted(cells[rows[0]])} ({table.place(rows[0])}). Split at it, there are {counted(_n_labels(texts, mark), 'label')}; at "
        f"{split}, {_n_labels(texts, separator):,}.",
        [[("separator", mark), ("separator", separator)]],
    )


def better_separator(texts: Sequence[str], separator: str = " ") -> str:
    """Another usual separator that gives fewer different labels; empty if none does."""
    there = [mark for mark in MARKS if mark != separator and any(mark in text for text in texts)]
    n_now = _n_labels(texts, separator) if there else 0
    return next((mark for mark in there if _n_labels(texts, mark) < n_now), "")


def _n_labels(texts: Sequence[str], separator: str) -> int:
    return len({label for text in texts for label in split_labels(text, separator)})


def _quoted(value: Any) -> str:
    return shown(repr(value), 40)
