"""Versions of installed packages."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def package_version(name: str) -> str:
    """The version of an installed package.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        It is not installed.
    """
    found = importlib.metadata.distribution(name)
    text = found.read_text("METADATA") or ""
    for line in text.split("\n\n", 1)[0].splitlines():  # `found.version` takes ten times as long: it parses all of it
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
    return found.version
