"""One exception for all writes that the system refuses; it names the file and the remedy."""

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
_ERRNO_IN_TEXT = re.compile(
    r"(?:os error|errno[ =:]*) ?(\d+)", re.IGNORECASE
)  # in messages of safetensors, HDF5 and Arrow
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # in messages of numpy


class UnwritableFile(MmfeatError, OSError):
    """A file cannot be written: the disk is full, read-only or failing. Also an `OSError`, with its `errno`."""

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
    """The errno of a refused write; None for any other error. Libraries may state it only in the message."""
    number = getattr(error, "errno", None)
    text = str(error)
    if number is None and (stated := _ERRNO_IN_TEXT.search(text)):
        number = int(stated[1])
    if number is None and _CUT_SHORT.search(text):
        number = errno.ENOSPC
    return number if number in _REFUSALS else None


@contextlib.contextmanager
def naming(path: Path, *parts: Path) -> Iterator[None]:
    """Convert errors of refused writes in the block to an :class:`UnwritableFile` that names `path`.

    Parameters
    ----------
    path : Path
        The file that the user knows.
    *parts : Path
        Temporary files and folders that the block writes for `path`. An error that names any other file, such as one that
        is read, is not converted.
    """
    try:
        yield
    except UnwritableFile as error:
        if not _among(error, parts):
            raise
        raise UnwritableFile(error.errno, path) from None
    except Exception as error:  # each library has its own exceptions
        number = refusal(error)
        if number is None or (getattr(error, "filename", None) and not _among(error, (path, *parts))):
            raise
        raise UnwritableFile(number, path) from None


def _among(error: OSError, parts: tuple[Path, ...]) -> bool:
    """Whether an error names one of these paths, or a path below one of them."""
    named = {str(name) for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)}
    return any(name == str(part) or name.startswith(f"{part}{os.sep}") for name in named for part in parts)
