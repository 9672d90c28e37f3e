"""A lock on a folder for work that only one process may do at a time; a second process waits or fails at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmfeat.common.errors import MmfeatError


@contextlib.contextmanager
def alone_in(folder: Path, command: str, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a folder during the block. The system releases it if the process dies.

    On a file system without locks, the block runs unlocked.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    command : str
        The name of the work, for the error message.
    wait : bool
        Whether to wait for another process; for work of an instant.

    Raises
    ------
    MmfeatError
        Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise MmfeatError(
                f"{folder}: another {command} is running. Type the command again when it has finished"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
