"""Work that only one process at a time may do in a folder; a second one gets an error and does not wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmfeat.common.errors import MmfeatError


@contextlib.contextmanager
def alone_in(folder: Path, command: str) -> Iterator[None]:
    """Hold a lock on a folder, which ends with the process; where the disk has no locks there is none.

    Raises
    ------
    MmfeatError
        Another process holds it.
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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MmfeatError(
                f"{folder}: another {command} is running. Type the command again when it has finished"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
