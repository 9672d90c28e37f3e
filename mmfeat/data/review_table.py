"""The review table that a person fills in: written without formulas in cells, read back with the line of every mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfeat.common.csv_text import csv_text, unharmed
from mmfeat.common.errors import DataError
from mmfeat.common.labels import split_labels
from mmfeat.common.spelling import Spellings
from mmfeat.common.text import quoted
from mmfeat.data.review_answers import AnswerNames, Answers, unknown_class
from mmfeat.data.tables.delimited import Record, read_records, repaired

FILE = "review.csv"
ID, ANSWER = "id", "labels"
BETWEEN = ";"  # also separates labels, whatever the project's separator
NO_LABELS = ("-", "none", "(none)")  # answers for no labels, unless one is a class's name


def nothing_mark(classes: Sequence[str]) -> str:
    """The answer for a row without labels."""
    return next((mark for mark in NO_LABELS if mark not in classes), NO_LABELS[-1])


def review_bytes(columns: Mapping[str, Sequence[str]]) -> bytes:
    """CSV of these columns and an empty column to fill in; spreadsheets read it as UTF-8."""
    rows = ([*row, ""] for row in zip(*columns.values(), strict=True))
    return csv_text([*columns, ANSWER], rows).encode("utf-8-sig", "replace")


def read_answers(file: Path, ids: Sequence[str], classes: Sequence[str], *, separator: str) -> Answers:
    """Read the answers; rows without an answer are not checked.

    Labels are separated by the project's separator or by a semicolon. Any delimiter of cells is read, since spreadsheets
    use several.

    Raises
    ------
    DataError
        The file cannot be read or is not a review table, or has an unknown id, a repeated id or an unknown class.
    """
    names = AnswerNames(ids, classes, otherwise=f"leave the line's {ANSWER} blank")
    records, at = _records(file)
    answered, given = [record for record in records if _answer(record, at)], {}
    for record in answered:
        where, cell = f"{file}:{record.line}", record.cells[at[0]].strip()
        sample = names.sample(where, f"line {record.line}", unharmed(cell), cell)
        try:
            given[sample] = named_classes(_answer(record, at), classes, separator)
        except KeyError as error:
            hint = f" None of them at all: {nothing_mark(classes)}"
            raise unknown_class(where, sample, error.args[0], classes=classes, hint=hint) from None
        except DataError as error:
            raise DataError(f"{where}: row {quoted(sample)}: the class {error}") from None
    return Answers(given=given, n_blank=len(records) - len(answered))


def is_review(file: Path) -> bool:
    """Whether a table has the columns of a review table."""
    with file.open("rb") as opened:
        header = opened.readline(2**20)
    return all(name in header for name in (b"given", b"model", b"probabilities", b"why"))


def n_answered(file: Path) -> int:
    """Number of answered rows of a review table.

    Raises
    ------
    DataError
        The file is not a review table.
    """
    records, at = _records(file)
    return sum(bool(_answer(record, at)) for record in records)


def _records(file: Path) -> tuple[list[Record], tuple[int, int]]:
    """All rows, and the indices of the columns of ids and answers; other columns may hold any bytes."""
    if not file.is_file():
        raise DataError(f"{file}: no such file. Run: mmfeat review")
    header, records = read_records(file)
    named = [Spellings(header, f"{file}:1: column ").find(name) for name in (ID, ANSWER)]
    for name, own in zip((ID, ANSWER), named, strict=True):
        if own is None:
            found = ", ".join(quoted(one) for one in header[:12])
            raise DataError(f"{file}:1: no column {name!r}. Columns: {found}. mmfeat review writes a table with both")
    at = header.index(named[0]), header.index(named[1])
    return list(repaired(file, records, [k for k in range(len(header)) if k not in at])), at


def _answer(record: Record, at: tuple[int, int]) -> str:
    return record.cells[at[1]].strip()


def named_classes(answer: str, classes: Sequence[str], separator: str) -> list[str]:
    """The classes in an answer, in class order; they are separated by a semicolon or the project's separator.

    Raises
    ------
    KeyError
        The first name that is not a class.
    """
    order = {name: k for k, name in enumerate(classes)}
    known = Spellings(order)

    def whole(text: str) -> list[str] | None:
        name = known.find(text) or known.find(unharmed(text))
        return None if name is None else [name]

    if (one := whole(answer)) is not None:
        return one
    if unharmed(answer).casefold() in NO_LABELS:
        return []
    names: list[str] = []
    for part in split_labels(answer, BETWEEN):
        for text in [part] if whole(part) else split_labels(part, separator):
            if (one := whole(text)) is None:
                raise KeyError(text)
            names += one
    return sorted(set(names), key=order.__getitem__)
