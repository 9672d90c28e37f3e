"""Writing HDF5 on a disk that may be full. HDF5 may abort the process on a failed write, so failures are hidden from it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import h5py


@contextlib.contextmanager
def writing_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file to write to.

    Raises
    ------
    OSError
        The system refused a write. The file at `path` is then unusable.
    """
    with path.open("w+b", buffering=0) as raw:
        disk = _Disk(raw)
        try:
            with h5py.File(disk, "w") as file:
                yield file
        finally:
            if disk.refused is not None:
                raise disk.refused


class _Disk(io.RawIOBase):
    """A file object whose writes always succeed; it keeps the first error of the real file."""

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.refused: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Write all of the data. After a first error nothing more is written."""
        rest = memoryview(data).cast("B")
        n_bytes = len(rest)
        with self._remembering():
            while len(rest) and self.refused is None:
                rest = rest[self.raw.write(rest) :]
        return n_bytes

    def readinto(self, buffer: memoryview) -> int:
        """Read back what was written; bytes of refused writes are zeros."""
        view = memoryview(buffer).cast("B")
        n_read = self.raw.readinto(view) or 0
        view[n_read:] = bytes(len(view) - n_read)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length."""
        with self._remembering():
            self.raw.truncate(size)
        return size or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        """The current position."""
        return self.raw.tell()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refused = self.refused or error
