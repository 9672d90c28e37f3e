"""From a source as people have it to samples: a Kaggle task's folder, COCO's files, or a table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfeat.data.coco import CATEGORIES, CocoTable, coco_files, read_coco
from mmfeat.data.columns import as_list, unused
from mmfeat.data.records import read_records, repaired
from mmfeat.data.samples import Reading, Source
from mmfeat.data.tables import SUFFIXES, Table, read_table
from mmfeat.errors import DataError
from mmfeat.labels import class_order
from mmfeat.spelling import Spellings, look_the_same, normal_name
from mmfeat.texts import shown

_KAGGLE = ("train.csv", "test.csv")
_WANTED = f"Give a folder with train.csv, COCO's instances_*.json, or a table ({', '.join(SUFFIXES)})"


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
    reading = Reading(source, columns, separator, classes is not None)
    for table in tables:
        reading.add(table)
    reading.finish(absent)
    if not isinstance(tables[0], CocoTable) and (line := unused(tables[0], source.columns)):
        source.hints.append(line)
    source.settings = source.columns | ({"labels": labels} if labels is not None else {})
    source.classes = tuple(classes) if classes is not None else _classes(source, tables)
    if not source.classes or (classes is None and not _any_label(source)):
        remedy = "Name the column: --labels COLUMN" if labels is None else "Name other categories: --labels NAME"
        raise DataError(f"{tables[0].file}: no row has a label, so there is nothing to learn. {remedy}")
    _check_labels(source)
    return source


def read_rows(path: Path, columns: Mapping[str, str], usual: Mapping[str, str | Sequence[str]]) -> Source:
    """Read a table of samples whose labels, if there are any, do not matter.

    Parameters
    ----------
    columns : dict of str to str
        Columns by role that must be there; the others are found.
    usual : mapping of str to str or sequence of str
        Columns by role that are taken where they are there.

    Raises
    ------
    DataError
        The table is missing, empty, malformed, has no such column, or repeats an id.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table. Give a table ({', '.join(SUFFIXES)}), a picture, or --caption TEXT")
    table = read_table(path)
    header = Spellings(table.header, f"{path}: column ")
    named = {role: [name for name in as_list(names) if header.find(name)] for role, names in usual.items()}
    named |= {role: [name] for role, name in columns.items() if name}
    source = Source(f"table {path.name}", {})
    reading = Reading(source, {role: named.get(role, []) for role in ("id", "image", "caption")}, " ", closed=True)
    try:
        reading.add(table, with_labels=False)
    except DataError as error:  # here columns are named otherwise than to init
        raise DataError(re.sub(r"--(id|image|caption) COLUMN", r"--column \1=NAME", str(error))) from None
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
    named = Spellings(header, f"{path}:1: column ").find("label")
    column = header.index(named) if named else 0
    lines: dict[str, int] = {}
    for record in repaired(path, records):
        label = normal_name(record.cells[column])
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


def _classes(source: Source, tables: Sequence[Table]) -> tuple[str, ...]:
    if isinstance(tables[0], CocoTable):
        return tables[0].classes
    if source.yes_no is not None:
        for a, b in look_the_same(source.columns["labels"]):
            raise DataError(f"{tables[0].file}: label columns {a!a} and {b!a} look the same. Rename one of them")
        return tuple(map(normal_name, source.columns["labels"]))
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
        if normal_name(column) not in known:
            raise _unknown("column", column, source.classes)


def _unknown(what: str, label: str, classes: Sequence[str]) -> DataError:
    near = difflib.get_close_matches(label, classes, 1)
    hint = f" Nearest: {shown(repr(near[0]))}." if near else ""
    return DataError(f"{what} {shown(repr(label))} is not in the class list of {len(classes)}.{hint}")
