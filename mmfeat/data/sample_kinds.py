"""The kind of a command's samples: a table, one picture, or several pictures in folders, archives and patterns."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.urls import is_url
from mmfeat.data.images.archives import ARCHIVES
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.tables.table_forms import is_table, table_suffix

PICTURE, PICTURES, TABLE = "picture", "pictures", "table"  # kinds of samples


def kind_of_sample(text: str, run_names: Collection[str] = ()) -> str:
    """The kind of an argument: one picture, several, or a table; empty if it is the name of a run.

    Parameters
    ----------
    run_names : collection of str
        Names of runs; they take precedence over a folder of the same name.
    """
    path, lower = Path(text).expanduser(), text.lower()
    if table_suffix(text):
        return TABLE
    if is_url(text):
        return PICTURE
    if lower.endswith(ARCHIVES) or (path.is_dir() and text not in run_names):
        return PICTURES
    if is_table(path):
        return TABLE
    if lower.endswith(IMAGE_SUFFIXES) or path.is_file():
        return PICTURES if _is_pattern(text) else PICTURE
    return PICTURES if _is_pattern(text) or text.endswith(("/", os.sep)) else ""


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[") and not Path(text).expanduser().exists()


def kind_of_samples(
    arguments: list[str], caption: str, captions: str, *, images: tuple[str, ...], columns: dict[str, str]
) -> str:
    """The kind of what is to be predicted: a table, pictures, or one picture or caption. Refuses arguments of another kind.

    Raises
    ------
    DataError, ConfigError
        An argument does not fit the kind of samples.
    """
    kinds = [kind_of_sample(what) or PICTURE for what in arguments]
    if len(kinds) > 1 and TABLE in kinds:
        raise ConfigError(
            f"{arguments[kinds.index(TABLE)]}: is a table, which is predicted on its own. Predict one after the other"
        )
    kind = PICTURES if len(kinds) > 1 else kinds[0] if kinds else PICTURE
    if kind == TABLE and caption:
        raise DataError(f"{arguments[0]}: is a table, and --caption is for one picture. Use: --column caption=COLUMN")
    if kind == PICTURES and caption:
        raise DataError(
            f"{arguments[0]}: --caption is for one picture. Use: --captions FILE, a table with ids and captions"
        )
    if kind != PICTURES and captions:
        raise ConfigError(
            "--captions is for a folder, an archive or a pattern of pictures. One picture takes --caption TEXT"
        )
    if kind != TABLE and images:
        raise ConfigError("--images is for a table: it names the place of the table's images")
    if columns and kind != TABLE and not captions:
        raise ConfigError("--column is for a table, or for the table of --captions")
    return kind
