"""Finds the column of each role (id, image, caption, labels, group): named by the user, or by common names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from mmfeat.common.errors import DataError
from mmfeat.common.spelling import Spellings, normal_name
from mmfeat.common.text import shown
from mmfeat.data.tables.label_cells import first_invalid_cell
from mmfeat.data.tables.table import Table

Columns = dict[str, str | list[str]]  # a role's column; a list for several columns, empty without one

ROLES = ("id", "image", "caption", "labels", "group", "split")
IN_LABELLED = ("labels", "group", "split")  # roles that a table of unlabelled rows may lack
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
    "group": (),  # never guessed, since it determines the split
    "split": (),
}


def find_columns(table: Table, given: Mapping[str, str | Sequence[str]], need_labels: bool = True) -> Columns:
    """Find the column of each role.

    Without a named or common column of labels, two or more columns of 0, 1 and blank cells are the labels.

    Parameters
    ----------
    given : mapping of str to str or sequence of str
        Columns named by the user.
    need_labels : bool
        Whether a table without labels is an error.

    Raises
    ------
    DataError
        A named column does not exist or is named twice; a role is ambiguous; or there is neither an image nor a caption, or
        no labels.
    """
    found: Columns = {}
    header = Spellings(table.header, f"{table.file}: column ")
    for role in ROLES:
        named = given.get(role, "")
        names = [named] if isinstance(named, str) and named else list(named)
        own = [header.find(name) for name in names]
        missing = [name for name, spelled in zip(names, own, strict=True) if spelled is None]
        if missing and (need_labels or role not in IN_LABELLED):
            raise _no_column(table, missing[0], role)
        there = [name for name in own if name is not None]
        repeated = next((name for name in there if there.count(name) > 1), None)
        if repeated:
            raise DataError(f"{table.file}: column {_quoted(repeated)} is named twice for {role}. Leave one out")
        if role == "labels" and not isinstance(named, str):
            found[role] = there
        else:
            found[role] = there[0] if len(there) == 1 else there or ("" if missing else _common(table, role))
    found["image"] = _image_column(table, str(found["image"]), bool(as_list(given.get("image", ""))))
    if not found["image"] and not found["caption"]:
        raise _neither(table)
    if not found["labels"] and need_labels:
        found["labels"] = _label_columns(table, {name for role in found for name in as_list(found[role])})
    if not found["split"]:
        del found["split"]  # manifests of projects without one stay the same
    if not found["id"] and not _is_nameless(table, str(found["image"])):
        found["id"] = found["image"]
    return found


def as_list(columns: str | Sequence[str]) -> list[str]:
    """The columns of a role as a list."""
    return ([columns] if columns else []) if isinstance(columns, str) else list(columns)


def images_inside(table: Table, found: Columns) -> str:
    """The column with embedded images: the one whose names are the images, or one with the name of the image column."""
    named = [name for name, names in table.pictures.items() if names and names == found["image"]]
    called = [name for name in table.pictures if name.strip().lower() in COMMON_NAMES["image"]]
    return next(iter([*named, *called]), "")


def listed(header: Sequence[str]) -> str:
    """The first names of a header, for messages."""
    return ", ".join(shown(repr(name), 42) for name in header[:12]) + (" ..." if len(header) > 12 else "")


def _common(table: Table, role: str) -> str:
    """The column with the most usual name of a role."""
    named = [[name for name in table.header if normal_name(name).lower() == common] for common in COMMON_NAMES[role]]
    if role == "labels":  # labels are not guessed
        named = [[name for names in named for name in names]]
    for names in named:
        if len(names) > 1:
            raise DataError(
                f"{table.file}: columns {_quoted(names[0])} and {_quoted(names[1])} may both serve as {role}. "
                f"Name one: --{role} COLUMN"
            )
        if names:
            return names[0]
    return ""


def unused(table: Table, found: Columns) -> str:
    """A line that lists unused columns; empty without any."""
    used = {name for role in found for name in as_list(found[role])}
    used |= {table.inside[name] for name in used if name in table.inside}
    rest = [name for name in table.header if name not in used and name not in table.inside]
    texts = [name for name in rest if normal_name(name).lower() in COMMON_NAMES["caption"]]
    join = " ".join(f"--caption {shown(name, 30)}" for name in [*as_list(found["caption"]), *texts])
    return f"  not used  {listed(rest)}{f'; joined captions: {join}' if texts else ''}" if rest else ""


def _label_columns(table: Table, used: set[str]) -> list[str]:
    """The unused columns of 0, 1 and blank cells, in order; at least two."""
    found, odd = [], ""
    for name in table.plain:
        if name in used:
            continue
        row, filled = first_invalid_cell(table.column(name))
        if row is None and filled:
            found.append(name)
        elif row and not odd:  # its first cell is valid, so the column may be meant
            cell = shown(repr(table.column(name)[row]), 30)
            odd = f" {_quoted(name)} is not a column of 0 and 1: it holds {cell} ({table.place(row)})."
    if len(found) > 1:
        return found
    raise DataError(
        f"{table.file}: no column of labels found, nor several of 0, 1 and blank.{odd} "
        f"Columns: {listed(table.header)}. Use: --labels COLUMN"
    )


def _no_column(table: Table, name: str, role: str) -> DataError:
    near = difflib.get_close_matches(name, table.header, 1)
    hint = f" Nearest: {_quoted(near[0])}." if near else ""
    return DataError(
        f"{table.file}: no column {_quoted(name)} for {role}. Columns: {listed(table.header)}.{hint} Use: --{role} COLUMN"
    )


def _neither(table: Table) -> DataError:
    if inside := images_inside(table, {"image": ""}):
        return DataError(
            f"{table.file}: column {_quoted(inside)} holds images without names, which this version does not read. Write each "
            f"to a file, and the files' names into a column, or name a column of captions: --caption COLUMN"
        )
    return DataError(
        f"{table.file}: no column of images or captions found. Columns: {listed(table.header)}. "
        f"Use: --caption COLUMN or --image COLUMN"
    )


def _image_column(table: Table, name: str, is_given: bool) -> str:
    """The column of image names; for a column of embedded images, the column of their names or another one."""
    if name not in table.pictures:
        return name
    inside = table.pictures[name]
    if is_given:
        return inside or name
    if inside and any(text.strip() for text in table.texts(inside)):
        return inside
    others = [one for common in COMMON_NAMES["image"] for one in table.header if one.strip().lower() == common]
    return next((one for one in others if one not in table.pictures), inside)


def _is_nameless(table: Table, image: str) -> bool:
    """Whether some embedded images lack names, so that names cannot be ids."""
    return image in table.inside and not all(text.strip() for text in table.texts(image))


def _quoted(name: str) -> str:
    return shown(repr(name))
