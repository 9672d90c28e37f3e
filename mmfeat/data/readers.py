"""From a source as people have it to samples: a Kaggle task's folder, COCO's files, or a table."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.data.coco import CATEGORIES, CocoTable, coco_files, read_coco
from mmfeat.data.columns import Columns, as_list, find_columns
from mmfeat.data.labelcells import named_labels, names_absent, with_absent, yes_no_labels
from mmfeat.data.records import read_records, repaired
from mmfeat.data.tables import SUFFIXES, Table, read_table
from mmfeat.errors import DataError
from mmfeat.labels import class_order, encode
from mmfeat.texts import shown

_SHOWN = 3  # ids in a message
_KAGGLE = ("train.csv", "test.csv")
_WANTED = f"Give a folder with train.csv, COCO's instances_*.json, or a table ({', '.join(SUFFIXES)})"


@dataclass
class Source:
    """Samples as a source gives them; :meth:`encoded` gives their labels.

    Attributes
    ----------
    labels : list of (list of str) or None
        Label names of each row, None for an unlabelled one; empty where `yes_no` has the labels.
    yes_no : np.ndarray or None
        `(N, K)` int8 of label columns, in the order of `columns["labels"]`: 1, 0, -1.
    absent : str
        What a label that is not given is: `negative` or `unknown`.
    groups : list of str
        The group of each row; empty where it has none.
    classes : tuple of str
        The class list where there is one; else COCO's categories or the label columns, in their order; else all names,
        sorted, by number where all are whole numbers.
    columns : dict of str to str or list of str
        `id`, `image`, `caption`, `labels`, `group` to the column that serves as it, or several; empty where none does.
        Without a column of ids they are made from the captions.
    settings : dict of str to str or list of str
        The same as `[data]` has to say it to be read again.
    kind : str
        What was found, for people.
    notes : list of str
        What was recovered or noticed, a line each.
    hints : list of str
        What people should look at, a line each.
    splits_cells : bool
        Whether names of labels were split from cells, so that the separator matters.
    n_recovered, n_damaged : int
        Records that are not valid CSV; captions with bytes that are not UTF-8.
    """

    kind: str
    columns: Columns
    settings: Columns = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    labels: list[list[str] | None] = field(default_factory=list)
    yes_no: np.ndarray | None = None
    absent: str = "negative"
    groups: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    splits_cells: bool = False
    n_recovered: int = 0
    n_damaged: int = 0

    def encoded(self, classes: Sequence[str]) -> np.ndarray:
        """The labels as `(N, K)` int8: 1 yes, 0 no, -1 not known; an unlabelled row is -1 throughout.

        Raises
        ------
        KeyError
            A label is not among the classes.
        """
        if self.yes_no is None:
            return encode(self.labels, classes)
        at = {name: k for k, name in enumerate(classes)}
        unlabelled = ~(self.yes_no >= 0).any(1)
        labels = np.full((len(self.yes_no), len(classes)), -1 if self.absent == "unknown" else 0, np.int8)
        labels[:, [at[name] for name in self.columns["labels"]]] = self.yes_no
        labels[unlabelled] = -1
        return labels


def read_source(
    path: Path, columns: Mapping[str, str | Sequence[str]], separator: str = " ",
    classes: Sequence[str] | None = None, absent: str = "auto",
) -> Source:  # fmt: skip
    """Read a folder with train.csv (and test.csv), COCO's files, or a table.

    Parameters
    ----------
    columns : mapping of str to str or sequence of str
        Columns that the user names; the others are found by common names. For COCO's files `labels` names categories.
    separator : str
        Between the labels of one cell.
    classes : sequence of str, optional
        The class list; a label outside it is an error. Without it every label is a class.
    absent : str
        What a label that is not given is: `negative`, `unknown` or `auto`, see :mod:`mmfeat.data.labelcells`.

    Raises
    ------
    DataError
        The source is missing, empty, malformed, has no such column, repeats an id, or names an unknown label.
    """
    kind, tables, columns, labels = _open(path, dict(columns))
    source = Source(kind, {})
    reading = _Reading(source, columns, separator, classes is not None)
    for table in tables:
        reading.add(table)
    reading.finish(absent)
    source.settings = source.columns | ({"labels": labels} if labels is not None else {})
    source.classes = tuple(classes) if classes is not None else _classes(source, tables)
    if not source.classes or (classes is None and not _any_label(source)):
        remedy = "Name the column: --labels COLUMN" if labels is None else "Name other categories: --labels NAME"
        raise DataError(f"{tables[0].file}: no row has a label, so there is nothing to learn. {remedy}")
    _check_labels(source)
    return source


def read_classes(path: Path) -> tuple[str, ...]:
    """The class list of a CSV table, in its order: its column `label`, else its first.

    Raises
    ------
    DataError
        The table cannot be read, or a label is blank or repeated.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give a CSV table with a column 'label' as the class list")
    header, records = read_records(path, recover=False)
    column = header.index("label") if "label" in header else 0
    lines: dict[str, int] = {}
    for record in repaired(path, records):
        label = record.cells[column].strip()
        if not label or label in lines:
            found = f"repeats {label!r} of line {lines[label]}" if label else "has a blank label"
            raise DataError(f"{path}:{record.line}: {found}. A class list names every class once")
        lines[label] = record.line
    return tuple(lines)


def _open(
    path: Path, columns: dict[str, str | Sequence[str]]
) -> tuple[str, list[Table], dict[str, str | Sequence[str]], str | list[str] | None]:  # fmt: skip
    """What a source is, its tables, the columns that are named; and for COCO what `labels` names, since it is no column."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. {_WANTED}")
    if path.is_dir() and (path / _KAGGLE[0]).is_file():
        files = [path / name for name in _KAGGLE if (path / name).is_file()]
        kind = f"Kaggle task: {' and '.join(file.name for file in files)}"
        return kind, [read_table(file, recover=True) for file in files], columns, None
    if files := coco_files(path):
        wanted = columns.get("labels", "")
        kind = f"COCO: {' and '.join(file.name for file in files[:3])}{' ...' if len(files) > 3 else ''}"
        tables = read_coco(files, as_list(wanted))
        named = wanted if isinstance(wanted, str) else list(wanted)
        return kind, list(tables), {**columns, "labels": CATEGORIES}, named
    if path.is_dir():
        names = [p.name for p in path.iterdir() if p.suffix.lower() in (*SUFFIXES, ".json")]
        tables = ", ".join(sorted(names)[:5]) or "no table"
        raise DataError(f"{path}: neither train.csv nor instances_*.json there (found {tables}). {_WANTED}")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: no source of samples: found {path.suffix or 'no suffix'}. {_WANTED}")
    return f"table {path.name}", [read_table(path)], columns, None


class _Reading:
    """Rows of one table after another, added to a source."""

    def __init__(
        self, source: Source, given: Mapping[str, str | Sequence[str]], separator: str, closed: bool
    ) -> None:  # fmt: skip
        self.source, self._given, self._separator, self._closed = source, given, separator, closed
        self._seen: dict[str, str] = {}
        self._repeats: Counter[str] = Counter()
        self._yes_no: list[np.ndarray] = []

    def add(self, table: Table) -> None:
        """Add one table's rows."""
        source = self.source
        found = find_columns(table, self._given, need_labels=not source.ids)
        source.columns = source.columns or found
        self._note(table, _repair(table, found))
        captions = _captions(table, as_list(found["caption"]))
        source.ids += self._ids(table, str(found["id"]), captions)
        source.images += [name.strip() for name in self._cells(table, found["image"])]
        source.captions += captions
        source.groups += [name.strip() for name in self._cells(table, found["group"])]
        labels = source.columns["labels"]
        if not isinstance(labels, str):
            self._yes_no.append(yes_no_labels(table, labels))
        elif found["labels"]:
            named = named_labels(table, labels, self._separator, self._closed)
            source.labels += named.rows
            source.hints += named.hints
            source.splits_cells = source.splits_cells or named.split
        else:
            source.labels += [None] * table.n_rows

    def finish(self, absent: str) -> None:
        """Say what a label is that is not given."""
        if self._yes_no:
            self.source.yes_no, self.source.absent = with_absent(np.concatenate(self._yes_no), absent)
        else:
            self.source.absent = names_absent(absent)

    def _note(self, table: Table, damaged: list[int]) -> None:
        source = self.source
        notes = [(row, note) for row, note in table.notes.items()]
        notes += [(row, "bytes of the caption that are not UTF-8 became U+FFFD") for row in damaged]
        source.notes += [f"{table.place(row)}: {note}" for row, note in sorted(notes, key=lambda pair: pair[0])]
        source.notes += table.remarks if isinstance(table, CocoTable) else []
        source.n_recovered += len(table.notes)
        source.n_damaged += len(damaged)

    def _ids(self, table: Table, column: str, captions: list[str]) -> list[str]:
        """The ids of a table; without a column of them they are made from the captions."""
        if not column:
            return [self._caption_id(caption) for caption in captions]
        ids, repeated = [cell.strip() for cell in table.texts(column)], []
        for row, sample in enumerate(ids):
            if not sample:
                raise DataError(f"{table.file}{table.where(row)}: the id in column {column!r} is blank")
            place = table.place(row)
            if sample in self._seen:
                repeated.append(f"{shown(repr(sample))} ({self._seen[sample]} and {place})")
            self._seen[sample] = place
        if repeated:
            more = f" and {len(repeated) - _SHOWN:,} more" if len(repeated) > _SHOWN else ""
            raise DataError(
                f"{table.file}: repeated ids: {', '.join(repeated[:_SHOWN])}{more}. Every row needs its own"
            )
        return ids

    def _caption_id(self, caption: str) -> str:
        """An id for a row that has none: not its place, which any new row may change, but a digest of its caption."""
        digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._repeats[digest] += 1
        return digest if self._repeats[digest] == 1 else f"{digest}-{self._repeats[digest]}"

    @staticmethod
    def _cells(table: Table, column: str | list[str]) -> list[str]:
        return table.texts(str(column)) if column else [""] * table.n_rows


def _repair(table: Table, found: Columns) -> list[int]:
    """Make a table's text UTF-8: rows whose captions had to be changed; elsewhere it is an error."""
    used = [name for role in found for name in as_list(found[role])]
    return table.repair([name for name in as_list(found["caption"]) if used.count(name) == 1])


def _captions(table: Table, columns: list[str]) -> list[str]:
    """The captions: of several columns those that are not blank, in lines."""
    if len(columns) == 1:
        return table.texts(columns[0])
    if not columns:
        return [""] * table.n_rows
    rows = zip(*(table.texts(name) for name in columns), strict=True)
    return ["\n".join(text for text in row if text.strip()) for row in rows]


def _classes(source: Source, tables: Sequence[Table]) -> tuple[str, ...]:
    if isinstance(tables[0], CocoTable):
        return tables[0].classes
    if source.yes_no is not None:
        return tuple(source.columns["labels"])
    return tuple(class_order(label for labels in source.labels if labels for label in labels))


def _any_label(source: Source) -> bool:
    return bool((source.yes_no == 1).any()) if source.yes_no is not None else any(source.labels)


def _check_labels(source: Source) -> None:
    known = set(source.classes)
    named = zip(source.ids, source.labels, strict=True) if source.yes_no is None else []
    for sample, labels in named:
        for label in labels or ():
            if label not in known:
                raise _unknown(f"row {shown(repr(sample))}: label", label, source.classes)
    for column in source.columns["labels"] if source.yes_no is not None else []:
        if column not in known:
            raise _unknown("column", column, source.classes)


def _unknown(what: str, label: str, classes: Sequence[str]) -> DataError:
    near = difflib.get_close_matches(label, classes, 1)
    hint = f" Nearest: {shown(repr(near[0]))}." if near else ""
    return DataError(f"{what} {shown(repr(label))} is not in the class list of {len(classes)}.{hint}")
