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


def folder_title(folder: Path) -> str:
    """The name of a model's folder; if it says nothing, that of its config.json, or of the nearest folder above it."""
    folder = Path(os.path.abspath(folder))
    names = [folder.name, _stated(folder), *(above.name for above in folder.parents)]
    named = [name.rpartition("--")[2] if name.startswith("models--") else name for name in names]
    return next((name for name in named if not _SAYS_NOTHING.fullmatch(name)), folder.name)


def _stated(folder: Path) -> str:
    """The last component of the name in a folder's config.json; empty without one."""
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
        return stated.rstrip("/").rpartition("/")[2] if isinstance(stated, str) else ""
    return ""
