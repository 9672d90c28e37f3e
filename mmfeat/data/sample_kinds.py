"""What is typed to be predicted: a table, one picture, or several in folders, archives and patterns."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.urls import is_url
from mmfeat.data.images.archives import ARCHIVES
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.tables.table_forms import is_table, table_suffix

PICTURE, PICTURES, TABLE = "picture", "pictures", "table"  # what is typed as a sample


def kind_of_sample(text: str, run_names: Collection[str] = ()) -> str:
    """What a word is that is typed as a sample: a picture, several, a table; empty where it is a run's name.

    Parameters
    ----------
    run_names : collection of str
        Names of runs, which are stronger than a folder of the same name.
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
    whats: list[str], caption: str, captions: str, *, images: tuple[str, ...], columns: dict[str, str]
) -> str:
    """What is to be predicted: a table, pictures, or one picture or caption; arguments that do not go with it are refused.

    Raises
    ------
    DataError, ConfigError
        An argument does not go with what is to be predicted.
    """
    kinds = [kind_of_sample(what) or PICTURE for what in whats]
    if len(kinds) > 1 and TABLE in kinds:
        raise ConfigError(f"{whats[kinds.index(TABLE)]}: is a table, and stands alone. Predict one after the other")
    kind = PICTURES if len(kinds) > 1 else kinds[0] if kinds else PICTURE
    if kind == TABLE and caption:
        raise DataError(f"{whats[0]}: is a table, and --caption is for one picture. Use: --column caption=COLUMN")
    if kind == PICTURES and caption:
        raise DataError(
            f"{whats[0]}: --caption is for one picture. Use: --captions FILE, a table with ids and captions"
        )
    if kind != PICTURES and captions:
        raise ConfigError(
            "--captions is for a folder, an archive or a pattern of pictures. One picture takes --caption TEXT"
        )
    if kind != TABLE and images:
        raise ConfigError("--images is for a table: it says where the table's images are")
    if columns and kind != TABLE and not captions:
        raise ConfigError("--column is for a table, or for the table of --captions")
    return kind
