"""Verification of checksums, cached by size, time and inode of each file. The cache is a shortcut and never part of a key.

A file's SHA-256 is computed when this machine first reads the file with its present size, time and inode, and not again
while these stay the same. This holds for a store's files and for all files in a sealed record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from platformdirs import user_cache_path

from mmfeat.common.files import TEMPORARY, digest_bytes, digest_file
from mmfeat.common.remembered import Remembered, Stamp, is_settled, stamp_of


class Digested(Protocol):
    """An object that states a file's size and digest: a commit of a store, an entry of a record."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FileDigest:
    """A file's name in its folder, its size in bytes and its SHA-256."""

    file: str
    size: int
    sha256: str


class VerifiedFiles:
    """Verifies the files of a folder; each checksum is computed once while the file is unchanged.

    Parameters
    ----------
    folder : Path
        An encoder's folder in the store, a run, a checkpoint or an export.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = digest_bytes(str(folder.resolve()).encode("utf-8", "surrogateescape"))[:24]
        self.memory = Remembered(user_cache_path("mmfeat") / "verified" / f"{name}.json")

    def check(self, wanted: Digested) -> Stamp:
        """Check that a file has the size and digest of its commit or record; returns its stamp.

        Raises
        ------
        ValueError
            The file is missing, unreadable or changed; the message is the reason.
        """
        path = self.folder / wanted.file
        try:
            stamp = stamp_of(path.stat())
            if stamp[0] != wanted.size:
                raise ValueError(f"it has {stamp[0]:,} bytes, it was written with {wanted.size:,}")
            remembered = self.memory.recall(wanted.file, stamp)
            if remembered is not None and remembered == wanted.sha256:
                return stamp
            digest = digest_file(path)
        except FileNotFoundError:
            raise ValueError("it is missing") from None
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror or error}") from None
        if digest != wanted.sha256:
            raise ValueError("its checksum has changed since it was written")
        if is_settled(stamp):
            self.memory.remember(wanted.file, wanted.sha256, stamp)
        return stamp

    def forget(self, wanted: Digested) -> None:
        """Forget that a file was verified."""
        self.memory.forget(wanted.file)

    def save(self) -> None:
        """Write the cache of verified files."""
        if not self.folder.name.startswith(TEMPORARY):  # a staged folder will be renamed
            self.memory.save()


def damaged_file(folder: Path, files: dict[str, dict[str, Any]], names: Iterable[str] | None = None) -> tuple[str, str]:
    """Find the first file of a folder that does not match the folder's sealed record.

    Parameters
    ----------
    files : dict
        The record's `files`: name to size and sha256.
    names : iterable of str, optional
        The files to check, by default all. A file that the record does not list counts as damaged.

    Returns
    -------
    tuple of str
        The file's name in the folder and the reason; two empty strings if all files match.
    """
    verified, damage = VerifiedFiles(folder), ("", "")
    for name in files if names is None else names:
        if name not in files:
            damage = name, "its record does not list it"
            break
        try:
            verified.check(FileDigest(name, files[name]["size"], files[name]["sha256"]))
        except ValueError as error:
            damage = name, str(error)
            break
    verified.save()
    return damage
