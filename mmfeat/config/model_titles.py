"""Titles of models in folders: the folder's name, or another one if that says nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

# Names that any model's folder may have, also a hub's snapshot and a part of a sentence-transformers folder.
_SAYS_NOTHING = re.compile(
    r"(model|models|encoder|weights|transformer|checkpoint(-\d+)?|final|best|last|latest|outputs?|pretrained)"
    r"|snapshots|\d+_\w+|[0-9a-f]{32,64}|",
    re.IGNORECASE,
)


_FRONT_MATTER = re.compile(r"\A---\n.*?^---$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^# +(.*?) *$", re.MULTILINE)
_README_BYTES = 1 << 16


def folder_title(folder: Path) -> str:
    """The name of a model's folder; if it says nothing, that of its config.json, or of the nearest folder above it.

    The config.json of a sentence-transformers folder names the model that it was trained from, so the heading of its
    README.md and the folder above come first.
    """
    folder = Path(os.path.abspath(folder))
    stated, above = [_stated(folder)], [one.name for one in folder.parents]
    if (folder / "modules.json").is_file():
        stated = [_heading(folder), *above[:1], *stated]
    names = [folder.name, *stated, *above]
    named = [name.rpartition("--")[2] if name.startswith("models--") else name for name in names]
    return next((name for name in named if not _SAYS_NOTHING.fullmatch(name)), folder.name)


def _stated(folder: Path) -> str:
    """The last component of the name in a folder's config.json; empty without one."""
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
        return stated.rstrip("/").rpartition("/")[2] if isinstance(stated, str) else ""
    return ""


def _heading(folder: Path) -> str:
    """The first heading of a folder's README.md, if it is a model's name; empty otherwise."""
    with contextlib.suppress(OSError), (folder / "README.md").open("rb") as file:
        text = file.read(_README_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
        first = _HEADING.search(_FRONT_MATTER.sub("", text))
        named = first and re.fullmatch(r"(?:[\w.-]+/)?([\w.-]+)", first[1])
        return named[1] if named else ""
    return ""
