"""Projects that older versions of mmfeat made, kept under tests/data."""

from __future__ import annotations

import tarfile
from pathlib import Path

DATA = Path(__file__).with_name("data")
VERSIONS = ("0.1.0",)


def older_project(version: str, folder: Path) -> Path:
    """Unpack the project that a version made into a folder; returns the project's own."""
    with tarfile.open(DATA / f"project-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"project-{version}"
