"""Projects that older versions of mmfeat made, kept under tests/fixtures."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import FIXTURES
from mmfeat.common.errors import MmfeatError

VERSIONS = ("0.1.0",)


def older_project(version: str, folder: Path) -> Path:
    """Unpack the project that a version made into a folder; returns the project's own."""
    with tarfile.open(FIXTURES / f"project-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"project-{version}"


def tried(ask: Callable[[], Any]) -> tuple[Any, str]:
    """What a reader returns, or its one line of error."""
    try:
        return ask(), ""
    except MmfeatError as error:
        return None, str(error)
