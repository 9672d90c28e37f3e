"""Which files this machine has verified, by size, time and inode: a shortcut, never a part of a key.

The files of a store and those that a sealed record names are read by the same rule: a file's SHA-256 is computed when
this machine first sees the file in its present size, time and inode, and not again while it stays as it is.
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
    """What is known of a file in a folder: a store's commit, a record's line."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FileDigest:
    """A file's name in its folder, its size and its SHA-256."""

    file: str
    size: int
    sha256: str


class VerifiedFiles:
    """Checksums of a folder's files, each computed once for as long as the file stays as it is.

    Parameters
    ----------
    folder : Path
        An encoder's folder in the store, a run, a checkpoint, an export.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = digest_bytes(str(folder.resolve()).encode("utf-8", "surrogateescape"))[:24]
        self.memory = Remembered(user_cache_path("mmfeat") / "verified" / f"{name}.json")

    def check(self, wanted: Digested) -> Stamp:
        """Make sure that a file is what its commit or its record says.

        Raises
        ------
        ValueError
            The message says what is wrong with it.
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
            raise ValueError("it is not there") from None
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror or error}") from None
        if digest != wanted.sha256:
            raise ValueError("its checksum is not what it was when it was written")
        if is_settled(stamp):
            self.memory.remember(wanted.file, wanted.sha256, stamp)
        return stamp

    def forget(self, wanted: Digested) -> None:
        """Check this file again, whatever is remembered of it."""
        self.memory.forget(wanted.file)

    def save(self) -> None:
        """Remember what was checked."""
        if not self.folder.name.startswith(TEMPORARY):  # a staged folder gets another name
            self.memory.save()


def damaged_file(folder: Path, files: dict[str, dict[str, Any]], names: Iterable[str] | None = None) -> tuple[str, str]:
    """The first of a folder's files that is not what its sealed record says, and why.

    Parameters
    ----------
    files : dict
        What the record holds under `files`.
    names : iterable of str, optional
        The files to check; all, when None. One that the record does not hold is wrong.

    Returns
    -------
    tuple of str
        The file's name in the folder and the reason; two empty strings where all is well.
    """
    memory, found = VerifiedFiles(folder), ("", "")
    for name in files if names is None else names:
        if name not in files:
            found = name, "it is not among the files of its record"
            break
        try:
            memory.check(FileDigest(name, files[name]["size"], files[name]["sha256"]))
        except ValueError as error:
            found = name, str(error)
            break
    memory.save()
    return found
