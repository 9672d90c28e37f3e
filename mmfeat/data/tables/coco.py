"""COCO's JSON files as tables: one row for each image, with its categories and captions."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.spelling import normal_name
from mmfeat.common.text import counted, shown
from mmfeat.data.setting_names import SettingError
from mmfeat.data.tables.columns import as_list
from mmfeat.data.tables.json_lines import json_of
from mmfeat.data.tables.source_kinds import Columns, OpenedSource
from mmfeat.data.tables.table import ObjectTable, kind_of, plain_text

PREFIX, CAPTIONS = "instances_", "captions_"
CATEGORIES = "categories"  # the column of an image's categories


class CocoTable(ObjectTable):
    """A table of images: their fields, `caption` and `categories` are the columns.

    Attributes
    ----------
    classes : tuple of str
        The categories, in order.
    remarks : list of str
        Remarks for people, one line each.
    """

    classes: tuple[str, ...] = ()
    remarks: list[str] = []

    def where(self, row: int) -> str:
        """The image's number, for messages."""
        return f" image {row + 1}"


def open_coco(path: Path, columns: Columns) -> OpenedSource | None:
    """Open COCO's files; None for a path of another kind. The column `labels` selects categories."""
    files = coco_files(path)
    if not files:
        return None
    wanted = columns.get("labels", "")
    tables = read_coco(files, as_list(wanted))
    return OpenedSource(
        kind=f"COCO: {' and '.join(file.name for file in files[:3])}{' ...' if len(files) > 3 else ''}",
        tables=list(tables),
        columns={**columns, "labels": CATEGORIES},
        labels=wanted,
        classes=tables[0].classes,
    )


def coco_files(path: Path) -> list[Path]:
    """The files of instances in a folder or in its `annotations`, or a single `.json` file; otherwise none."""
    if path.is_dir():
        found = sorted(path.glob(f"{PREFIX}*.json")) or sorted((path / "annotations").glob(f"{PREFIX}*.json"))
        return [file for file in found if file.is_file()]
    return [path] if path.suffix.lower() == ".json" else []


def read_coco(files: Sequence[Path], categories: Sequence[str] = ()) -> list[CocoTable]:
    """Read files of instances, and the files of captions beside them.

    An image without annotations has no category. All images of a file without any annotation are unlabelled.

    Parameters
    ----------
    categories : sequence of str
        Names or ids of the categories to use; all if empty.

    Raises
    ------
    DataError
        A file is not a COCO file or has an invalid reference, or a category is unknown or ambiguous.
    """
    data = [_read(file, ("images",)) for file in files]
    known = _all_categories(files, data)
    names = _selected(files, known, categories)
    tables = []
    for file, content in zip(files, data, strict=True):
        captions = file.with_name(CAPTIONS + file.name.removeprefix(PREFIX))
        tables.append(_table(file, content, known, names=names, captions_file=captions if captions.is_file() else None))
        content.clear()  # frees a large file before the next table is built
    return tables


def _read(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The JSON object in a file; the values of these keys are lists of objects."""
    try:
        content = json_of(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON that can be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds {kind_of(content)}, and COCO's files hold an object. Rows of a table: .jsonl")
    for key in (*keys, "annotations", "categories"):
        value = content.get(key, None if key in keys else [])
        if value is None:
            raise DataError(f"{file}: no {key!r} in it, as COCO's files have. Rows of a table go into a .jsonl file")
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DataError(f"{file}: {key!r} is not a list of objects, as in COCO's files")
    return content


def _all_categories(files: Sequence[Path], data: list[dict[str, Any]]) -> dict[Any, str]:
    """Names of all categories by id, over all files, in order."""
    names: dict[Any, str] = {}
    for file, content in zip(files, data, strict=True):
        for at, category in enumerate(content.get("categories", [])):
            found = category.get("id")
            name = normal_name(plain_text(category.get("name")) or "")
            if not name or not isinstance(found, int | str):
                raise DataError(f"{file}: category {at + 1} lacks its id or its name")
            if names.setdefault(found, name) != name:
                raise DataError(
                    f"{file}: category {found} is {_quoted(name)} here, and {_quoted(names[found])} elsewhere"
                )
    if not names:
        raise DataError(f"{files[0]}: no categories in it, so there is nothing to learn")
    return names


def _selected(files: Sequence[Path], names: dict[Any, str], wanted: Sequence[str]) -> dict[Any, str]:
    """The wanted categories, given by name or id, in the given order."""
    selected: dict[Any, str] = {}
    for text in wanted:
        found = [key for key, name in names.items() if name == normal_name(text)] or [
            key for key in names if str(key) == text
        ]
        if not found:
            near = difflib.get_close_matches(text, names.values(), 1)
            hint = f" Nearest: {_quoted(near[0])}." if near else ""
            known = ", ".join(f"{key} {_quoted(name)}" for key, name in list(names.items())[:8])
            more = " ..." if len(names) > 8 else ""
            raise SettingError(
                f"{files[0]}: no category {_quoted(text)}.{hint} There are: {known}{more}.", [[("labels", "NAME")]]
            )
        if found[0] in selected:
            raise DataError(f"{files[0]}: category {_quoted(text)} is selected twice. Leave one out")
        selected |= {key: names[key] for key in found}
    selected = selected or names
    name, times = Counter(selected.values()).most_common(1)[0]
    if times > 1:
        ids = " and ".join(str(key) for key in selected if selected[key] == name)
        raise SettingError(
            f"{files[0]}: categories {ids} are all called {_quoted(name)}. Select one by its id.", [[("labels", "ID")]]
        )
    return selected


def _table(
    file: Path, content: dict[str, Any], known: dict[Any, str], *, names: dict[Any, str], captions_file: Path | None
) -> CocoTable:
    rows: dict[Any, dict[str, Any]] = {}
    columns = [CATEGORIES, "caption"] if captions_file else [CATEGORIES]
    for at, image in enumerate(content["images"]):
        found = image.get("id")
        if not isinstance(found, int | str):
            raise DataError(f"{file} image {at + 1}: has no id")
        if found in rows:
            raise DataError(f"{file} image {at + 1}: repeats the id {found!r}. Every image needs its own")
        rows[found] = image | dict.fromkeys(columns)
    if "annotations" in content:
        _add_categories(file, content["annotations"], rows, known=known, names=names)
    others = _add_captions(captions_file, rows) if captions_file else 0
    table = CocoTable(file, list(rows.values()))
    table.classes = tuple(names.values())
    if others:
        what = f"{counted(others, 'caption')} of images that {file.name} does not list"
        table.remarks = [f"{captions_file.name}: {what}"]
    return table


def _add_categories(
    file: Path,
    annotations: list[dict[str, Any]],
    rows: dict[Any, dict[str, Any]],
    *,
    known: dict[Any, str],
    names: dict[Any, str],
) -> None:
    """Set each image's categories, in order; an empty list for an image without any."""
    found: dict[Any, set[Any]] = {image: set() for image in rows}
    at = -1
    try:
        for at, annotation in enumerate(annotations):
            image, category = annotation["image_id"], annotation["category_id"]
            found[image].add(category)
            if category not in known:
                raise DataError(f"{file} annotation {at + 1}: there is no category {_quoted(category)}")
    except KeyError as error:
        what = error.args[0]
        problem = f"has no {what!r}" if what in ("image_id", "category_id") else f"there is no image {_quoted(what)}"
        raise DataError(f"{file} annotation {at + 1}: {problem}") from None
    except TypeError:
        raise DataError(
            f"{file} annotation {at + 1}: its image_id or category_id is neither a number nor text"
        ) from None
    order = {key: number for number, key in enumerate(names)}
    for image, keys in found.items():
        rows[image][CATEGORIES] = [names[key] for key in sorted(keys & order.keys(), key=order.__getitem__)]


def _add_captions(file: Path, rows: dict[Any, dict[str, Any]]) -> int:
    """Set each image's captions, one per line; returns the number of captions of unknown images."""
    others = 0
    for at, annotation in enumerate(_read(file, ("annotations",))["annotations"]):
        image, caption = annotation.get("image_id"), annotation.get("caption")
        if not isinstance(image, int | str) or not isinstance(caption, str):
            raise DataError(f"{file} annotation {at + 1}: lacks its image_id or its caption")
        if image not in rows:
            others += 1
        elif caption.strip():
            before = rows[image].get("caption")
            rows[image]["caption"] = f"{before}\n{caption}" if before else caption
    return others


def _quoted(text: Any) -> str:
    return shown(repr(text), 40)
