"""Uncommitted files, left by a writer that was killed between writing a file and its commit; they never count.

Every file records the process that wrote it. A file of this machine is removed when its process is gone; a file of another
machine (a store may be shared) is removed when it is a day old.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from mmfeat.common.files import DAY, HOST, is_running
from mmfeat.common.hdf5_reading import open_hdf5

WRITER = "writer"  # attribute of every file: the machine and process that wrote it


def this_process() -> str:
    """The value of the attribute for this process."""
    return f"{HOST}-{os.getpid()}"


def is_being_written(path: Path, by_others: bool = False) -> bool:
    """Whether the process that wrote a file may still commit it, or files that belong to it.

    Parameters
    ----------
    by_others : bool
        Whether only other processes count, because this one is not writing.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    try:
        with open_hdf5(path) as h5:
            host, _, process = str(h5.attrs[WRITER]).partition("-")
    except Exception:  # HDF5 raises various errors for damage; the first version recorded no writer
        host = process = ""
    here = host == HOST and process.isdigit()
    gone = here and (not is_running(int(process)) or (by_others and int(process) == os.getpid()))
    return age < DAY and not gone


def uncommitted_files(folder: Path) -> list[Path]:
    """The files of an encoder's folder without a commit, and without a process that may still commit them."""
    found = []
    for path in folder.rglob("part-*.h5"):
        commit = folder / "commits" / f"{path.relative_to(folder).as_posix().replace('/', '-')}.json"
        # The writer is checked first: if it is gone, a file without a commit will never get one.
        if not commit.exists() and not is_being_written(path) and not commit.exists():
            found.append(path)
    return sorted(found)


def remove_uncommitted(folder: Path) -> None:
    """Remove them."""
    for path in uncommitted_files(folder):
        with contextlib.suppress(OSError):
            path.unlink()
