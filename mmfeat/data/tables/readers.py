"""From a source as people have it to samples: a Kaggle task's folder, COCO's files, or a table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.common.labels import class_order
from mmfeat.common.spelling import Spellings, look_the_same, normal_name
from mmfeat.common.text import shown
from mmfeat.data.tables.coco import CATEGORIES, CocoTable, coco_files, read_coco
from mmfeat.data.tables.columns import as_list, unused
from mmfeat.data.tables.samples import Reading, Source
from mmfeat.data.tables.shards import about_files, is_pattern, matching, parquet_files, read_together
from mmfeat.data.tables.table import SUFFIXES, Table, read_table
from mmfeat.data.tables.table_forms import table_suffix

_KAGGLE = ("train.csv", "test.csv")
_WANTED = f"Give a folder with train.csv, COCO's instances_*.json, a folder or pattern of Parquet files, or a table ({', '.join(SUFFIXES)})"


def read_source(
    path: Path,
    columns: Mapping[str, str | Sequence[str]],
    separator: str = " ",
    *,
    classes: Sequence[str] | None = None,
    absent: str = "auto",
) -> Source:
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
        What a label that is not given is: `negative`, `unknown` or `auto`, see :mod:`mmfeat.data.tables.label_cells`.

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
    if not path.is_file() and not is_pattern(path):
        raise DataError(f"{path}: no such table. Give a table ({', '.join(SUFFIXES)}), a picture, or --caption TEXT")
    files = [path] if path.is_file() else matching(path)
    tables = read_together(files)
    header = Spellings(tables[0].header, f"{path}: column ")
    named = {role: [name for name in as_list(names) if header.find(name)] for role, names in usual.items()}
    named |= {role: [name] for role, name in columns.items() if name}
    source = Source(f"table {path.name}", {}, hints=about_files(files))
    reading = Reading(source, {role: named.get(role, []) for role in ("id", "image", "caption")}, " ", closed=True)
    try:
        for table in tables:
            reading.add(table, with_labels=False)
    except DataError as error:  # here columns are named otherwise than to init
        raise DataError(re.sub(r"--(id|image|caption) COLUMN", r"--column \1=NAME", str(error))) from None
    return source


def read_classes(path: Path) -> tuple[str, ...]:
    """The class list of a table, in its order: its column `label`, else its first.

    Raises
    ------
    DataError
        The table cannot be read, or a label is blank or repeated.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give a CSV table with a column 'label' as the class list")
    table = read_table(path)
    table.repair([])
    column = Spellings(table.header, f"{path}:1: column ").find("label") or table.header[0]
    places: dict[str, int] = {}
    for row, text in enumerate(table.texts(column)):
        label = normal_name(text)
        if not label or label in places:
            found = f"repeats {label!r} of{_line_of(table, places[label])}" if label else "has a blank label"
            raise DataError(f"{path}{table.where(row)}: {found}. A class list names every class once")
        places[label] = row
    return tuple(places)


def _line_of(table: Table, row: int) -> str:
    return table.where(row).replace(":", " line ")


_Opened = tuple[str, list[Table], dict[str, str | Sequence[str]], str | list[str] | None]


def about_images_inside(source: Source) -> str:
    """What to say of a column that holds images themselves: what to do to use them now."""
    names = source.columns["image"] if any(source.images) else source.columns["id"]
    called = f"under the names in column {shown(repr(names))}" if names else "under names, and the names in a column"
    role = "" if any(source.images) else f" --image {shown(names or 'COLUMN', 40)}"
    return (
        f"  images inside column {shown(repr(source.images_inside))} are not read by this version. To use them now, save them as "
        f"files {called}, and name their place:{role} --images PATH"
    )


def _open(path: Path, columns: dict[str, str | Sequence[str]]) -> _Opened:
    """What a source is, its tables, the columns that are named; and for COCO what `labels` names, since it is no column."""
    if is_pattern(path):
        return _several(f"tables {path.name}", matching(path), columns)
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
        if files := parquet_files(path):
            return _several(f"tables in {path.name}", files, columns)
        names = [p.name for p in path.iterdir() if table_suffix(p.name) or p.suffix.lower() == ".json"]
        tables = ", ".join(sorted(names)[:5]) or "no table"
        raise DataError(
            f"{path}: neither train.csv nor instances_*.json nor .parquet there (found {tables}). {_WANTED}"
        )
    return _single(path, columns)


def _single(path: Path, columns: dict[str, str | Sequence[str]]) -> _Opened:
    try:
        table = read_table(path)
    except DataError as error:
        if table_suffix(path.name):
            raise
        raise DataError(f"{error}. Found {path.suffix or 'no suffix'}. {_WANTED}") from None
    table.hints += about_files([path])
    return f"table {path.name}", [table], columns, None


def _several(kind: str, files: list[Path], columns: dict[str, str | Sequence[str]]) -> _Opened:
    """Files that are one table together."""
    tables = read_together(files)
    tables[0].hints += about_files(files)
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return f"{kind}: {files[0].name}{more}", tables, columns, None


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
