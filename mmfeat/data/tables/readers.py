"""Reads a source (a Kaggle task's folder, COCO's files, tables) into samples."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.common.labels import class_order
from mmfeat.common.spelling import Spellings, look_the_same, normal_name
from mmfeat.common.text import shown
from mmfeat.data.setting_names import PREDICT, SettingError, SettingNames
from mmfeat.data.tables import source_kinds
from mmfeat.data.tables.coco import open_coco
from mmfeat.data.tables.columns import as_list, unused
from mmfeat.data.tables.samples import Reading, Source
from mmfeat.data.tables.shards import about_files, is_pattern, matching, parquet_files, read_together
from mmfeat.data.tables.source_kinds import Columns, OpenedSource
from mmfeat.data.tables.table import Table
from mmfeat.data.tables.table_forms import SUFFIXES, read_table, table_suffix

_KAGGLE = ("train.csv", "test.csv")
_WANTED = f"Give a folder with train.csv, COCO's instances_*.json, a folder or pattern of Parquet files, or a table ({', '.join(SUFFIXES)})"


def read_source(
    path: Path,
    columns: Mapping[str, str | Sequence[str]],
    separator: str = " ",
    *,
    chosen: bool = True,
    classes: Sequence[str] | None = None,
    absent: str = "auto",
) -> Source:
    """Read a folder with train.csv (and test.csv), COCO's files, or a table.

    Parameters
    ----------
    columns : mapping of str to str or sequence of str
        Columns named by the user; the others are found by common names. For COCO's files, `labels` selects categories.
    separator : str
        Separates the labels of one cell.
    chosen : bool
        Whether the user has chosen the separator. Otherwise cells that seem to hold several labels are an error.
    classes : sequence of str, optional
        The class list; a label outside it is an error. Without a list, every label is a class.
    absent : str
        How unlisted labels are treated: `negative`, `unknown` or `auto`, see :mod:`mmfeat.data.tables.label_cells`.

    Raises
    ------
    DataError
        The source is missing, empty or malformed, lacks a column, repeats an id, or has a label outside the class list.
    """
    opened = _open(path, {role: name if isinstance(name, str) else list(name) for role, name in columns.items()})
    table, labels = opened.tables[0], opened.labels
    source = Source(opened.kind, {})
    reading = Reading(source, opened.columns, separator, closed=classes is not None, chosen=chosen)
    for one in opened.tables:
        reading.add(one)
    reading.finish(absent)
    if labels is None and (line := unused(table, source.columns)):
        source.hints.append(line)
    source.settings = source.columns | ({"labels": labels} if labels is not None else {})
    source.classes = tuple(classes) if classes is not None else _classes(source, opened)
    if not source.classes or (classes is None and not _any_label(source)):
        remedy = "COLUMN" if labels is None else "NAME"  # of a category
        raise SettingError(f"{table.file}: no row has a label, so there is nothing to learn.", [[("labels", remedy)]])
    _check_labels(source)
    return source


def read_rows(path: Path, columns: Mapping[str, str], usual: Mapping[str, str | Sequence[str]]) -> Source:
    """Read a table of samples without their labels.

    Parameters
    ----------
    columns : dict of str to str
        Required columns by role; the others are found.
    usual : mapping of str to str or sequence of str
        Columns by role that are used if they exist.

    Raises
    ------
    DataError
        The table is missing, empty or malformed, lacks a column, or repeats an id.
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
    except SettingError as error:
        raise error.called(PREDICT) from None
    return source


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a class list: the column `label` of a table or, without it, the first column.

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


def about_images_inside(source: Source, names: SettingNames) -> str:
    """A hint about a column of embedded images: how to use them, in the caller's names of settings."""
    column = str(source.columns["image"] if any(source.images) else source.columns["id"])
    called = f"under the names in column {shown(repr(column))}" if column else "under names, and the names in a column"
    image = [] if any(source.images) else [[("image", shown(column or "COLUMN", 40))]]
    return (
        f"  images inside column {shown(repr(source.images_inside))} are not read by this version. To use them now, save them as "
        f"files {called}, and name their place: {names.typed([*image, [('images', 'PATH')]])}{names.end}"
    )


def _open(path: Path, columns: Columns) -> OpenedSource:
    """Open a source by the first kind that recognises it."""
    if not path.exists() and not is_pattern(path):
        raise DataError(f"{path}: no such file or folder. {_WANTED}")
    openers = (*source_kinds.SOURCE_KINDS, _open_pattern, _open_kaggle, open_coco, _open_folder, _open_table)
    return next(found for opener in openers if (found := opener(path, columns)) is not None)


def _open_pattern(path: Path, columns: Columns) -> OpenedSource | None:
    return _open_together(f"tables {path.name}", matching(path), columns) if is_pattern(path) else None


def _open_kaggle(path: Path, columns: Columns) -> OpenedSource | None:
    if not path.is_dir() or not (path / _KAGGLE[0]).is_file():
        return None
    files = [path / name for name in _KAGGLE if (path / name).is_file()]
    kind = f"Kaggle task: {' and '.join(file.name for file in files)}"
    return OpenedSource(kind=kind, tables=[read_table(file, recover=True) for file in files], columns=columns)


def _open_folder(path: Path, columns: Columns) -> OpenedSource | None:
    """A folder of Parquet files."""
    if not path.is_dir():
        return None
    if files := parquet_files(path):
        return _open_together(f"tables in {path.name}", files, columns)
    names = [p.name for p in path.iterdir() if table_suffix(p.name) or p.suffix.lower() == ".json"]
    tables = ", ".join(sorted(names)[:5]) or "no table"
    raise DataError(f"{path}: neither train.csv nor instances_*.json nor .parquet there (found {tables}). {_WANTED}")


def _open_table(path: Path, columns: Columns) -> OpenedSource:
    try:
        table = read_table(path)
    except DataError as error:
        if table_suffix(path.name):
            raise
        raise DataError(f"{error}. Found {path.suffix or 'no suffix'}. {_WANTED}") from None
    table.hints += about_files([path])
    return OpenedSource(kind=f"table {path.name}", tables=[table], columns=columns)


def _open_together(kind: str, files: list[Path], columns: Columns) -> OpenedSource:
    """Several files that are one table."""
    tables = read_together(files)
    tables[0].hints += about_files(files)
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return OpenedSource(kind=f"{kind}: {files[0].name}{more}", tables=tables, columns=columns)


def _classes(source: Source, opened: OpenedSource) -> tuple[str, ...]:
    if opened.classes:
        return opened.classes
    if source.indicators is not None:
        for a, b in look_the_same(source.columns["labels"]):
            raise DataError(f"{opened.tables[0].file}: label columns {a!a} and {b!a} look the same. Rename one of them")
        return tuple(map(normal_name, source.columns["labels"]))
    return tuple(class_order(label for labels in source.labels if labels for label in labels))


def _any_label(source: Source) -> bool:
    return bool((source.indicators == 1).any()) if source.indicators is not None else any(source.labels)


def _check_labels(source: Source) -> None:
    known = set(source.classes)
    named = zip(source.ids, source.labels, strict=True) if source.indicators is None else []
    for sample, labels in named:
        for label in labels or ():
            if label not in known:
                raise _unknown(f"row {shown(repr(sample))}: label", label, source.classes)
    for column in source.columns["labels"] if source.indicators is not None else []:
        if normal_name(column) not in known:
            raise _unknown("column", column, source.classes)


def _unknown(what: str, label: str, classes: Sequence[str]) -> DataError:
    near = difflib.get_close_matches(label, classes, 1)
    hint = f" Nearest: {shown(repr(near[0]))}." if near else ""
    return DataError(f"{what} {shown(repr(label))} is not in the class list of {len(classes)}.{hint}")
