"""Atomic writes of files and folders, leftover removal and digests."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmfeat.common.unwritable import UnwritableFile, naming

TEMPORARY = ".tmp-"  # prefix of every unfinished file and folder
DAY = 86400.0
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # this machine, in names of temporary files


def digest_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces, ASCII)."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii"))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_of(path: Path) -> bytes | None:
    """A file's content; None if it does not exist.

    The file is opened without checking first whether it exists, because another process may remove it in between.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def temporary_beside(path: Path) -> Path:
    """A new temporary name in the same folder, so that renaming it to `path` is atomic."""
    return path.with_name(f"{temporary_name()}-{path.name}")


def temporary_name() -> str:
    """A new name that contains the machine and the process that writes it; see :func:`remove_leftovers`."""
    return f"{TEMPORARY}{HOST}-{os.getpid()}-{secrets.token_hex(4)}"


def flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable, if the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_file(path: Path) -> None:
    """Write a closed file's bytes to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` if the block succeeds, and removed otherwise.

    Raises
    ------
    UnwritableFile
        The system refuses a write, whichever library makes it.
    """
    temporary = temporary_beside(path)
    with naming(path, temporary, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, below=False, name=path.name)
        try:
            yield temporary
            flush_file(temporary)
            os.replace(temporary, path)
            flush_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file's content by `data`, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON value atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def publish_folder(staged: Path, parent: Path, stem: str, taken: Iterable[str] = ()) -> Path:
    """Rename a finished folder to `parent/stem-N`, where N follows the highest number in use (1 for the first).

    Two processes that publish at the same time get different numbers.

    Parameters
    ----------
    staged : Path
        The finished folder, inside `parent`.
    taken : iterable of str
        Further names whose numbers are in use.

    Returns
    -------
    Path
        The folder's final path.

    Raises
    ------
    UnwritableFile
        The system refuses the rename.
    """
    taken = list(taken)
    flush_files(staged, parent)
    while True:
        names = [*taken, *(path.name for path in parent.iterdir())]
        numbers = [re.fullmatch(rf"{re.escape(stem)}-(\d+)", name) for name in names]
        final = parent / f"{stem}-{max((int(found[1]) for found in numbers if found), default=0) + 1}"
        try:
            os.rename(staged, final)
        except OSError as error:  # another process may have taken the number meanwhile
            if not final.exists():
                raise UnwritableFile(error.errno, final) from None
        else:
            flush_folder(parent)
            return final


def flush_files(staged: Path, parent: Path) -> None:
    """Write the files of a folder in `parent` to the disk."""
    for file in staged.rglob("*"):
        if file.is_file():
            with naming(parent, staged, file):
                flush_file(file)


@contextlib.contextmanager
def staging_folder(parent: Path, sweep: bool = True) -> Iterator[Path]:
    """Yield a new temporary folder in `parent`. It is removed when the block ends, unless the block renamed it.

    Leftovers of killed processes in `parent` are removed first.

    Parameters
    ----------
    sweep : bool
        Also remove leftovers in all subfolders of `parent`.

    Raises
    ------
    UnwritableFile
        The system refuses a write, whichever library makes it.
    """
    staged = parent / temporary_name()
    with naming(parent, staged):
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent, below=sweep)
        staged.mkdir()
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def remove_leftovers(folder: Path, below: bool = True, name: str = "") -> None:
    """Remove temporary files and folders that no process writes any more.

    A leftover of this machine is removed if its process has ended, one of another machine (the folder may be shared) if
    it is a day old.

    Parameters
    ----------
    below : bool
        Also search all subfolders.
    name : str
        Remove only the temporary files of the file with this name; empty for all.
    """
    wanted = f"{TEMPORARY}*-{glob.escape(name)}" if name else f"{TEMPORARY}*"
    for path in (folder.rglob if below else folder.glob)(wanted):
        match = re.match(rf"{re.escape(TEMPORARY)}([0-9a-f]{{8}})-(\d+)-", path.name)
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > DAY
            if match and (old or (match[1] == HOST and not is_running(int(match[2])))):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_running(process: int) -> bool:
    """Whether the process with this id is running on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
