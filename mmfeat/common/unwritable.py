"""One error for every write that the system refuses: it names the file and says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mmfeat.common.errors import MmfeatError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_REFUSALS = _FULL | _CLOSED | {errno.EIO, errno.EFBIG, errno.ENXIO, errno.ENODEV, errno.ESTALE}
_TOLD = re.compile(r"(?:os error|errno[ =:]*) ?(\d+)", re.IGNORECASE)  # in messages of safetensors, HDF5 and Arrow
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # in messages of numpy


class UnwritableFile(MmfeatError, OSError):
    """A file cannot be written: the disk is full, can only be read, or fails. Also an `OSError`, with its `errno`."""

    def __init__(self, number: int, path: Path | str) -> None:
        OSError.__init__(self, number, os.strerror(number), str(path))

    def __str__(self) -> str:
        remedy = ""
        if self.errno in _FULL:
            remedy = ". Free some space there, then type the command again"
        elif self.errno in _CLOSED:
            remedy = ". Make it writable, then type the command again"
        return f"{self.filename}: cannot be written: {self.strerror}{remedy}"


def refusal(error: BaseException) -> int | None:
    """The errno with which the system refused a write; None where an error is something else."""
    number = getattr(error, "errno", None)
    text = str(error)
    if number is None and (told := _TOLD.search(text)):
        number = int(told[1])
    if number is None and _CUT_SHORT.search(text):
        number = errno.ENOSPC
    return number if number in _REFUSALS else None


@contextlib.contextmanager
def naming(path: Path, *parts: Path) -> Iterator[None]:
    """Raise what the system refuses in the block as an :class:`UnwritableFile` of `path`.

    Parameters
    ----------
    *parts : Path
        What is written on the way to `path`. An error that names another file, as one that is read, stays as it is.
    """
    try:
        yield
    except UnwritableFile as error:
        if not _among(error, parts):
            raise
        raise UnwritableFile(error.errno, path) from None
    except Exception as error:  # libraries have exceptions of their own
        number = refusal(error)
        if number is None or (getattr(error, "filename", None) and not _among(error, (path, *parts))):
            raise
        raise UnwritableFile(number, path) from None


def _among(error: OSError, parts: tuple[Path, ...]) -> bool:
    """Whether an error names one of some files, or something below it."""
    named = {str(name) for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)}
    return any(name == str(part) or name.startswith(f"{part}{os.sep}") for name in named for part in parts)
