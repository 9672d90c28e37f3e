"""From a source as people have it to samples: a Kaggle task's folder, or a CSV table."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.data.records import read_records, repaired
from mmfeat.errors import DataError
from mmfeat.labels import class_order, encode, split_labels

ROLES = ("id", "image", "caption", "labels", "group")
COMMON_NAMES = {
    "id": ("id", "imageid", "image_id", "sample_id", "key"),
    "image": (
        "image",
        "imageid",
        "image_id",
        "path",
        "image_path",
        "file",
        "filename",
        "file_name",
        "picture",
        "photo",
    ),
    "caption": ("caption", "title", "text", "description", "captions"),
    "labels": ("labels", "label", "tags", "classes", "categories", "category"),
    "group": (),  # never guessed: it decides the split
}
_SHOWN = 3  # ids in a message


@dataclass
class Source:
    """Samples as a source gives them.

    Attributes
    ----------
    labels : list of (list of str) or None
        Label names of each row; None for an unlabelled one.
    groups : list of str
        The group of each row; empty where it has none.
    classes : tuple of str
        All names, sorted; by number where all are whole numbers.
    columns : dict of str to str
        `id`, `image`, `caption`, `labels`, `group` to the column that serves as it; empty where none does. Without a column of
        ids they are made from the captions.
    kind : str
        What was found, for people.
    notes : list of str
        What was recovered or noticed, a line each.
    n_recovered, n_damaged : int
        Records that are not valid CSV; captions with bytes that are not UTF-8.
    """

    kind: str
    columns: dict[str, str]
    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    labels: list[list[str] | None] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    n_recovered: int = 0
    n_damaged: int = 0

    def encoded(self, classes: Sequence[str]) -> np.ndarray:
        """The labels as `(N, K)` int8: 1 yes, 0 no, -1 not known."""
        return encode(self.labels, classes)


def read_source(
    path: Path, columns: dict[str, str], separator: str = " ", classes: Sequence[str] | None = None
) -> Source:
    """Read a folder with train.csv (and test.csv), or a CSV table.

    Parameters
    ----------
    columns : dict of str to str
        Columns that the user names; the others are found by common names.
    separator : str
        Between the labels of one cell.
    classes : sequence of str, optional
        The class list; a label outside it is an error. Without it every label is a class.

    Raises
    ------
    DataError
        The source is missing, empty, malformed, has no such column, repeats an id, or names an unknown label.
    """
    if path.is_dir():
        files = [path / name for name in ("train.csv", "test.csv") if (path / name).is_file()]
        if not files or files[0].name != "train.csv":
            tables = ", ".join(sorted(p.name for p in path.glob("*.csv"))[:5]) or "no CSV file"
            raise DataError(
                f"{path}: no train.csv there (found {tables}). Give a folder with train.csv, or one CSV table"
            )
        kind = f"Kaggle task: {' and '.join(file.name for file in files)}"
    elif path.is_file():
        if path.suffix.lower() != ".csv":
            raise DataError(
                f"{path}: a source is a folder with train.csv, or a .csv table; found {path.suffix or 'no suffix'}"
            )
        files, kind = [path], f"table {path.name}"
    else:
        raise DataError(f"{path}: no such file or folder. Give a folder with train.csv, or a CSV table")
    source = Source(kind, {})
    seen: dict[str, str] = {}
    repeats: Counter[str] = Counter()
    for file in files:
        _read_file(file, columns, separator, source, seen, repeats, recover=path.is_dir())
    found = class_order(label for labels in source.labels if labels for label in labels)
    source.classes = tuple(classes) if classes is not None else tuple(found)
    if not source.classes:
        raise DataError(
            f"{files[0]}: no row has a label, so there is nothing to learn. Name the column: --labels COLUMN"
        )
    _check_labels(source, source.classes)
    return source


def read_rows(path: Path, columns: dict[str, str], usual: dict[str, str]) -> Source:
    """Read a table of samples whose labels, if there are any, do not matter.

    Parameters
    ----------
    columns : dict of str to str
        Columns by role that must be there; the others are found.
    usual : dict of str to str
        Columns by role that are taken where they are there.

    Raises
    ------
    DataError
        The table is missing, empty, malformed, has no such column, or repeats an id.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table. Give a CSV table, a picture, or --caption TEXT")
    header, _ = read_records(path, recover=False)
    named = {role: name for role, name in usual.items() if name in header} | {r: n for r, n in columns.items() if n}
    source = Source(f"table {path.name}", {})
    _read_file(path, named | {"labels": ""}, " ", source, {}, Counter(), recover=False, need_labels=False)
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


def _read_file(
    file: Path, columns: dict[str, str], separator: str, source: Source, seen: dict[str, str],
    repeats: Counter[str], recover: bool, need_labels: bool = True,
) -> None:  # fmt: skip
    """Add one file's rows to the source."""
    header, records = read_records(file, recover)
    found = find_columns(file, header, columns, need_labels=need_labels and not source.ids)
    source.columns = source.columns or found
    at = {role: header.index(name) for role, name in found.items() if name}
    repeated = []
    caption = at.get("caption")
    free = caption if [*at.values()].count(caption) == 1 else None
    for record in repaired(file, records, free):
        line, cells = record.line, record.cells
        if record.note:
            source.notes.append(f"{file.name}:{line}: {record.note}")
            source.n_recovered += 1
        if record.damaged:
            source.notes.append(f"{file.name}:{line}: bytes of the caption that are not UTF-8 became U+FFFD")
            source.n_damaged += 1
        sample = cells[at["id"]].strip() if "id" in at else _caption_id(cells[caption], repeats)
        if not sample:
            raise DataError(f"{file}:{line}: the id in column {found['id']!r} is blank")
        if sample in seen:
            repeated.append(f"{sample!r} ({seen[sample]} and {file.name}:{line})")
        seen[sample] = f"{file.name}:{line}"
        source.ids.append(sample)
        source.images.append(cells[at["image"]].strip() if "image" in at else "")
        source.captions.append(cells[at["caption"]] if "caption" in at else "")
        labels = split_labels(cells[at["labels"]], separator) if "labels" in at else []
        source.labels.append(labels or None)
        source.groups.append(cells[at["group"]].strip() if "group" in at else "")
    if repeated:
        more = f" and {len(repeated) - _SHOWN:,} more" if len(repeated) > _SHOWN else ""
        raise DataError(f"{file}: repeated ids: {', '.join(repeated[:_SHOWN])}{more}. Every row needs its own")


def _caption_id(caption: str, repeats: Counter[str]) -> str:
    """An id for a row that has none: not its place, which any new row may change, but a digest of its caption."""
    digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    repeats[digest] += 1
    return digest if repeats[digest] == 1 else f"{digest}-{repeats[digest]}"


def find_columns(file: Path, header: list[str], given: dict[str, str], need_labels: bool = True) -> dict[str, str]:
    """Which column serves as what.

    Raises
    ------
    DataError
        A named column is not there; or neither image nor caption, or no labels, can be found.
    """
    lower = {name.strip().lower(): name for name in reversed(header)}
    found = {}
    for role in ROLES:
        name = given.get(role, "")
        if name and name not in header and (need_labels or role not in ("labels", "group")):
            near = difflib.get_close_matches(name, header, 1)
            hint = f" Nearest: {near[0]!r}." if near else ""
            raise DataError(
                f"{file}: no column {name!r} for {role}. Columns: {_listed(header)}.{hint} Use: --{role} COLUMN"
            )
        found[role] = name if name in header else next((lower[n] for n in COMMON_NAMES[role] if n in lower), "")
    if not found["image"] and not found["caption"]:
        other = next((name for name, mark in (("semicolons", ";"), ("tabs", "\t")) if mark in header[0]), None)
        if len(header) == 1 and other:
            raise DataError(f"{file}: its cells are separated by {other}. Save it as CSV with commas")
        raise DataError(
            f"{file}: no column of images or captions found. Columns: {_listed(header)}. Use: --caption COLUMN or --image COLUMN"
        )
    if not found["labels"] and need_labels:
        raise DataError(f"{file}: no column of labels found. Columns: {_listed(header)}. Use: --labels COLUMN")
    found["id"] = found["id"] or found["image"]
    return found


def _listed(header: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in header[:12]) + (" ..." if len(header) > 12 else "")


def _check_labels(source: Source, classes: tuple[str, ...]) -> None:
    known = set(classes)
    for sample, labels in zip(source.ids, source.labels, strict=True):
        for label in labels or ():
            if label not in known:
                near = difflib.get_close_matches(label, classes, 1)
                hint = f" Nearest: {near[0]!r}." if near else ""
                raise DataError(
                    f"row {sample!r}: label {label[:60]!r} is not in the class list of {len(classes)}.{hint}"
                )
