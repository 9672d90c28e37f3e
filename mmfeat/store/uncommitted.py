"""Files that no commit names: a writer that was killed between a file and its commit has left them, and they never count.

Parts, tokens, logits and merged parts say in themselves which process wrote them. What a process of this machine left goes
when that process is gone; what another machine left (the store may be shared) when it is a day old.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from mmfeat.common.files import DAY, HOST, is_running
from mmfeat.common.hdf5_reading import open_hdf5

WRITER = "writer"  # attribute of every file: which process of which machine wrote it


def this_process() -> str:
    """What the attribute says."""
    return f"{HOST}-{os.getpid()}"


def is_being_written(path: Path, by_others: bool = False) -> bool:
    """Whether the process that wrote a file may still be about to commit it, or what belongs to it.

    Parameters
    ----------
    by_others : bool
        Whether only other processes count, since this one is known to be doing something else.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    try:
        with open_hdf5(path) as h5:
            host, _, process = str(h5.attrs[WRITER]).partition("-")
    except Exception:  # HDF5 has its own errors for each kind of damage; the first version did not say who writes
        host = process = ""
    here = host == HOST and process.isdigit()
    gone = here and (not is_running(int(process)) or (by_others and int(process) == os.getpid()))
    return age < DAY and not gone


def uncommitted_files(folder: Path) -> list[Path]:
    """The files of an encoder's folder that no commit names and no process is about to commit."""
    found = []
    for path in folder.rglob("part-*.h5"):
        commit = folder / "commits" / f"{path.relative_to(folder).as_posix().replace('/', '-')}.json"
        # Its writer first: one that is gone commits nothing more, so that what has no commit after that never will.
        if not commit.exists() and not is_being_written(path) and not commit.exists():
            found.append(path)
    return sorted(found)


def remove_uncommitted(folder: Path) -> None:
    """Remove them."""
    for path in uncommitted_files(folder):
        with contextlib.suppress(OSError):
            path.unlink()
