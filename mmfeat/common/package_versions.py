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
        The package is not installed.
    """
    installed = importlib.metadata.distribution(name)
    text = installed.read_text("METADATA") or ""
    for line in text.split("\n\n", 1)[0].splitlines():  # ten times as fast as `.version`, which parses the whole file
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
    return installed.version
