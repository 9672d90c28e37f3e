"""Corrections: labels that a person gives in corrections.csv (columns id and labels); they override the source.

A corrected row has exactly the labels of its line; an empty cell means no labels. The whole file is checked before anything
changes, and errors name the line.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import class_order, positive_cells, split_labels
from mmfeat.common.spelling import Spellings, normal_name
from mmfeat.common.text import nearest, quoted
from mmfeat.data.review_table import BETWEEN, named_classes
from mmfeat.data.tables.delimited import Delimited, read_delimited, read_records, repaired
from mmfeat.data.tables.samples import Source
from mmfeat.data.tables.text_files import UTF8, TextFile

FILE = "corrections.csv"


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """The labels of a source after its corrections.

    Attributes
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1 positive, 0 negative, -1 unknown.
    rows : list of int
        The corrected rows.
    n_differ : int
        Number of the corrected rows whose labels in the source differ or are unknown.
    new, gone : list of str
        Classes that only corrections have, and classes that lost every positive. Both are empty with a class list.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    rows: list[int] = field(default_factory=list)
    n_differ: int = 0
    new: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Number of corrected rows."""
        return len(self.rows)


def corrected(source: Source, file: Path, separator: str, *, closed: bool) -> Corrected:
    """The labels of a source, corrected by a file; unchanged if the file does not exist.

    Parameters
    ----------
    separator : str
        Separates the labels of one cell.
    closed : bool
        Whether there is a class list: a label outside it is an error. Otherwise every label of a row, from the source
        or from a correction, is a class.

    Raises
    ------
    DataError
        The file is malformed or cannot be read, or has an unknown id, a repeated id or an invalid label.
    """
    if not file.exists():
        return Corrected(labels=source.encoded(source.classes), classes=source.classes)
    given = _read_corrections(file, source, separator, closed=closed)
    new = [
        name for name in class_order(name for names in given.values() for name in names) if name not in source.classes
    ]
    classes = _with_new(source.classes, new)
    labels = source.encoded(classes)
    had, rows = _has_positive(labels), list(given)
    before = labels[rows]
    column = {name: k for k, name in enumerate(classes)}
    for row, names in given.items():
        labels[row] = 0
        labels[row, [column[name] for name in names]] = 1
    n_differ = int((labels[rows] != before).any(1).sum())
    lost = had & ~_has_positive(labels) & (not closed)
    labels = labels[:, ~lost] if lost.any() else labels
    classes, gone = (
        tuple(name for name, out in zip(classes, lost, strict=True) if out == want) for want in (False, True)
    )
    return Corrected(labels=labels, classes=classes, rows=rows, n_differ=n_differ, new=new, gone=list(gone))


def _has_positive(labels: np.ndarray) -> np.ndarray:
    """Whether each class has a positive, `(K,)` bool."""
    return np.bincount(positive_cells(labels)[1], minlength=labels.shape[1]) > 0


def _read_corrections(file: Path, source: Source, separator: str, *, closed: bool) -> dict[int, list[str]]:
    """Row number to labels."""
    header, records = read_records(file)
    at = {role: _column(file, header, role, own=source.columns.get(role, "")) for role in ("id", "labels")}
    row_of = {sample: row for row, sample in enumerate(source.ids)}
    known = Spellings(row_of)
    given: dict[int, list[str]] = {}
    lines: dict[str, int] = {}
    for record in repaired(file, records):
        where, text = f"{file}:{record.line}", record.cells[at["id"]].strip()
        sample = _own_id(where, text, known) or text
        if sample in lines:
            raise DataError(f"{where}: repeats the id {quoted(sample)} of line {lines[sample]}. Leave one of them out")
        if sample not in row_of:
            what = f"no row {quoted(sample)} in the source" if sample else "the id is blank"
            raise DataError(f"{where}: {what}.{nearest(sample, source.ids)} Correct it, or leave the line out")
        lines[sample] = record.line
        names = _names(record.cells[at["labels"]], source.classes, separator)
        for name in names:
            _check_label(where, name, source.classes, separator=separator, closed=closed)
        given[row_of[sample]] = names
    return given


def _own_id(where: str, text: str, known: Spellings) -> str | None:
    """The id that a cell refers to; None if there is no such id."""
    try:
        return known.find(text)
    except DataError as error:
        raise DataError(f"{where}: the id {error}. Spell it as the source does") from None


def _names(cell: str, classes: Sequence[str], separator: str) -> list[str]:
    """The labels of a cell. A semicolon also separates them, as in review.csv, if this gives only known classes."""
    names = split_labels(cell, separator)
    if BETWEEN in cell and not set(names) <= set(classes):
        with contextlib.suppress(KeyError):
            return named_classes(cell, classes, separator)
    return names


def _column(file: Path, header: list[str], role: str, *, own: str | Sequence[str]) -> int:
    """The index of a column, found by its role (`id`, `labels`) or by its name in the source."""
    for name in (role, own):
        if isinstance(name, str) and name and (found := Spellings(header, f"{file}:1: column ").find(name)):
            return header.index(found)
    names = f"{role!r}" + (f" (or {own!r}, as in the source)" if isinstance(own, str) and own not in ("", role) else "")
    found = ", ".join(quoted(name) for name in header[:12])
    raise DataError(f"{file}:1: no column {names}. Columns: {found}. It needs two: id,labels")


def _check_label(where: str, name: str, classes: Sequence[str], *, separator: str, closed: bool) -> None:
    if name in classes:
        return
    parts = [part.strip() for part in re.split(r"[,;|/\t]", name)]
    words = name.split()
    if (len(parts) > 1 and any(part in classes for part in parts)) or (
        len(words) > 1 and all(word in classes for word in words)
    ):
        raise DataError(
            f"{where}: label {quoted(name)} is several labels. They are separated by {separator!r}: separator under [data]"
        )
    if closed:
        raise DataError(
            f"{where}: label {quoted(name)} is not in the class list of {len(classes)}.{nearest(name, classes)}"
        )


def _with_new(classes: tuple[str, ...], new: list[str]) -> tuple[str, ...]:
    """Classes with the new ones: in the usual order if the source follows it, otherwise at the end."""
    together = [*classes, *new]
    return tuple(class_order(together) if list(classes) == class_order(classes) else together)


def corrected_ids(file: Path, own: str | Sequence[str] = "") -> Spellings:
    """The ids in a file of corrections; none if the file does not exist.

    Parameters
    ----------
    own : str
        The name of the id column in the source.
    """
    if not file.exists():
        return Spellings(())
    header, records = read_records(file)
    at = _column(file, header, "id", own=own)
    return Spellings({record.cells[at].strip() for record in records})


def corrected_labels(file: Path, columns: Mapping[str, str | Sequence[str]], *, separator: str) -> dict[str, list[str]]:
    """The labels of each id in a file of corrections, as written there; none if the file does not exist.

    Parameters
    ----------
    columns : mapping of str to str or sequence of str
        The names of the columns `id` and `labels` in the source.
    """
    if not file.exists():
        return {}
    header, records = read_records(file)
    at_id, at_labels = (_column(file, header, role, own=columns.get(role, "")) for role in ("id", "labels"))
    return {one.cells[at_id].strip(): split_labels(one.cells[at_labels], separator) for one in records}


def add_answers(
    file: Path, answers: Mapping[str, Sequence[str]], columns: Mapping[str, str | Sequence[str]], *, separator: str
) -> bytes:
    """The new content of a file of corrections after adding answers: equal lines stay, new lines follow.

    The delimiter is kept; the text becomes UTF-8.

    Parameters
    ----------
    file : Path
        The current file; it may be missing, and is not changed.
    answers : mapping of str to sequence of str
        Id to labels.
    columns : mapping of str to str or sequence of str
        The names of the columns `id` and `labels` in the source.

    Raises
    ------
    DataError
        The file is malformed, or a label has the separator in its name.
    """
    for names in answers.values():
        if split_labels(separator.join(names), separator) != list(map(normal_name, names)):
            wrong = next((n for n in names if split_labels(n, separator) != [normal_name(n)]), names[0])
            raise DataError(
                f"{file}: label {quoted(wrong)} has the separator {separator!r} in its name. Set another separator under [data]"
            )
    old = file.read_bytes() if file.exists() else b""
    found = (
        read_delimited(file)
        if old.strip()
        else Delimited(header=["id", "labels"], records=[], delimiter=",", file=TextFile(""))
    )
    header, records = found.header, found.records
    at_id, at_labels = (_column(file, header, role, own=columns.get(role, "")) for role in ("id", "labels"))
    rows, left, changed = [record.cells for record in records], dict(answers), False
    asked = Spellings(answers)
    for record in records:
        cells, text = record.cells, record.cells[at_id].strip()
        names = left.pop(_own_id(f"{file}:{record.line}", text, asked), None)
        if names is not None and set(split_labels(cells[at_labels], separator)) != set(map(normal_name, names)):
            cells[at_labels] = separator.join(names)
            changed = True
    changed = changed or bool(left)
    if not changed:
        return old
    for sample, names in left.items():
        cells = [""] * len(header)
        cells[at_id], cells[at_labels] = sample, separator.join(names)
        rows.append(cells)
    text = io.StringIO(newline="")
    line_end = "\r\n" if "\r\n" in found.file.text else "\n"
    writer = csv.writer(text, delimiter=found.delimiter, lineterminator=line_end)
    writer.writerows([header, *rows])
    marked = found.file.marked or found.file.encoding != UTF8  # spreadsheets recognise UTF-8 by its byte-order mark
    return (codecs.BOM_UTF8 if marked else b"") + text.getvalue().encode("utf-8", "surrogateescape")
