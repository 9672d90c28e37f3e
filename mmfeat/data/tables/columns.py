"""Finds the column of each role (id, image, caption, labels, group, split): as named, by common names, or by its cells."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmfeat.common.errors import DataError
from mmfeat.common.spelling import Spellings, normal_name
from mmfeat.common.text import shown
from mmfeat.data.setting_names import SettingError, Settings
from mmfeat.data.tables.candidates import candidates, image_columns
from mmfeat.data.tables.label_cells import better_separator, first_invalid_cell
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
    problems: list[_Problem] = []
    header = Spellings(table.header, f"{table.file}: column ")
    for role in ROLES:
        found[role], problem = _column_of(table, header, role, named=given.get(role, ""), need_labels=need_labels)
        problems += [problem] if problem else []
    used = {name for role in found for name in as_list(found[role])}
    found["image"] = _image_column(table, str(found["image"]), bool(as_list(given.get("image", ""))))
    wanting = {problem.role for problem in problems}
    if not found["image"] and "image" not in wanting:
        found["image"] = _image_by_cells(table, used, str(found["id"]))
    if not found["image"] and not found["caption"] and not wanting & {"image", "caption"}:
        problems.append(_neither(table, used))
    if not found["labels"] and need_labels and "labels" not in wanting:
        found["labels"], problem = _label_columns(table, used | {str(found["image"])})
        problems += [problem] if problem else []
    if problems:
        raise _all_of(table, problems, found)
    if not found["split"]:
        del found["split"]  # manifests of projects without one stay the same
    if not found["id"] and not _is_nameless(table, str(found["image"])):
        found["id"] = found["image"]
    return found


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """A role without a column: what is wrong, and the settings that name one."""

    role: str
    text: str
    use: Settings
    hint: str = ""
    lists: bool = True  # whether the message lists all columns


def _column_of(
    table: Table, header: Spellings, role: str, *, named: str | Sequence[str], need_labels: bool
) -> tuple[str | list[str], _Problem | None]:
    """The column of a role, as named or by common names; empty without one."""
    names = [named] if isinstance(named, str) and named else list(named)
    own = [header.find(name) for name in names]
    missing = [name for name, spelled in zip(names, own, strict=True) if spelled is None]
    if missing and (need_labels or role not in IN_LABELLED):
        return "", _no_column(table, missing[0], role)
    there = [name for name in own if name is not None]
    repeated = next((name for name in there if there.count(name) > 1), None)
    if repeated:
        raise DataError(f"{table.file}: column {_quoted(repeated)} is named twice for {role}. Leave one out")
    if role == "labels" and not isinstance(named, str):
        return there, None
    if len(there) == 1 or there or missing:
        return there[0] if len(there) == 1 else there or "", None
    return _common(table, role)


def _image_by_cells(table: Table, used: set[str], ids: str) -> str:
    """The column whose cells are names of image files, if only one is; the column of ids, if no other is."""
    found = image_columns(table, used) or ([ids] if ids and ids in image_columns(table, used - {ids}) else [])
    return found[0] if len(found) == 1 else ""


def _all_of(table: Table, problems: list[_Problem], found: Columns) -> SettingError:
    """One error about all roles without a column, with the settings to type."""
    used = {name for role in found for name in as_list(found[role])}
    use = [group for problem in problems for group in problem.use]
    perhaps = [
        [(role, named[0])]
        for role in ("caption", "split")
        if not found[role] and role not in {p.role for p in problems} and (named := candidates(table, role, used))
    ]
    text = f"{table.file}: {'; '.join(problem.text for problem in problems)}."
    if any(problem.lists for problem in problems):
        text += f" Columns: {listed(table.header)}.{''.join(problem.hint for problem in problems)}"
    return SettingError(text, use, perhaps if problems[0].lists else ())


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


def _common(table: Table, role: str) -> tuple[str, _Problem | None]:
    """The column with the most usual name of a role; empty without one."""
    named = [[name for name in table.header if normal_name(name).lower() == common] for common in COMMON_NAMES[role]]
    if role == "labels":  # labels are not guessed
        named = [[name for names in named for name in names]]
    for names in named:
        if len(names) > 1:
            text = f"columns {_quoted(names[0])} and {_quoted(names[1])} may both serve as {role}"
            return "", _Problem(role=role, text=text, use=[[(role, "COLUMN")]], lists=False)
        if names:
            return names[0], None
    return "", None


def unused(table: Table, found: Columns) -> str:
    """A line that lists unused columns; empty without any."""
    used = {name for role in found for name in as_list(found[role])}
    used |= {table.inside[name] for name in used if name in table.inside}
    rest = [name for name in table.header if name not in used and name not in table.inside]
    if not rest:
        return ""
    line = f"  not used  {listed(rest)}"
    texts = [name for name in rest if normal_name(name).lower() in COMMON_NAMES["caption"]]
    if texts and found["caption"]:
        joined = json.dumps([*as_list(found["caption"]), *texts], ensure_ascii=False)
        return f"{line}; joined captions: caption = {shown(joined, 120)} under [data] in mmfeat.toml, then: mmfeat init"
    keys = {"caption": "caption = {} under [data]", "split": "column = {} under [split]"}
    perhaps = [
        text.format(json.dumps(shown(named[0]), ensure_ascii=False))
        for role, text in keys.items()
        if not found.get(role) and (named := candidates(table, role, used))
    ]
    return f"{line}; perhaps: {' and '.join(perhaps)} in mmfeat.toml, then: mmfeat init" if perhaps else line


def _label_columns(table: Table, used: set[str]) -> tuple[list[str], _Problem | None]:
    """The unused columns of 0, 1 and blank cells, in order; at least two."""
    found, odd = [], ""
    for name in table.plain:
        if name in used:
            continue
        row, filled = first_invalid_cell(table.column(name))
        if row is None and filled:
            found.append(name)
        elif row is not None and filled and not odd:  # its first cells are valid, so the column may be meant
            cell = shown(repr(table.column(name)[row]), 30)
            odd = f" {_quoted(name)} is not a column of 0 and 1: it holds {cell} ({table.place(row)})."
    if len(found) > 1:
        return found, None
    use = [[("labels", "COLUMN")]]
    if likely := candidates(table, "labels", used):
        mark = better_separator(table.texts(likely[0]))
        use = [[("labels", likely[0])], *([[("separator", mark)]] if mark else [])]
    text = "no column of labels found, nor several of 0, 1 and blank"
    return [], _Problem(role="labels", text=text, use=use, hint=odd)


def _no_column(table: Table, name: str, role: str) -> _Problem:
    near = difflib.get_close_matches(name, table.header, 1)
    hint = f" Nearest: {_quoted(near[0])}." if near else ""
    return _Problem(role=role, text=f"no column {_quoted(name)} for {role}", use=[[(role, "COLUMN")]], hint=hint)


def _neither(table: Table, used: set[str]) -> _Problem:
    """The problem of a table without images and captions.

    Raises
    ------
    DataError
        Its images are inside a column, without names.
    """
    if inside := images_inside(table, {"image": ""}):
        raise SettingError(
            f"{table.file}: column {_quoted(inside)} holds images without names, which this version does not read. Write each "
            f"to a file, and the files' names into a column, or name a column of captions.",
            [[("caption", "COLUMN")]],
        )
    roles = ("caption", "image")
    use = [[(role, names[0])] for role in roles if (names := candidates(table, role, used))]
    text = "no column of images or captions found"
    return _Problem(role="caption", text=text, use=use or [[(role, "COLUMN") for role in roles]])


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
