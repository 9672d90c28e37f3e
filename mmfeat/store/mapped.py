"""MappedArray: a large array in a verified file, mapped into memory and checked for changes at every access."""

from __future__ import annotations

import functools
import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.remembered import Stamp, stamp_of

MAPS_OPEN = 200  # each map uses two file descriptors; a process often has 1024
_LARGE = 1 << 20  # bytes from which a plain read is faster than a map's page faults


@dataclass(frozen=True, kw_only=True)
class MappedArray:
    """A large array `(n, ...)` of a verified file; only indexed rows are read.

    A mapped file stays open, so that it can still be read after another process has merged it into a larger one. Every access
    checks that the file has not been written to since it was verified.

    Attributes
    ----------
    stamp : tuple of int
        Stamp of the file when it was verified.
    """

    path: Path
    stamp: Stamp
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Some rows: a view of the map for a slice, a copy for an array of numbers."""
        return self._open().values[rows]

    def open(self) -> None:
        """Map the file now, so that it stays readable after its removal."""
        self._open()

    def read_into(self, start: int, stop: int, out: np.ndarray) -> None:
        """Copy rows `start` to `stop` into `out`, `(stop - start, ...)` of the same dtype and contiguous."""
        opened = self._open()
        if out.nbytes < _LARGE:
            out[...] = opened.values[start:stop]
            return
        view, at = out.reshape(-1).view(np.uint8).data, self.offset + start * self.row_bytes
        while len(view):
            n = os.preadv(opened.descriptor, [view], at)
            if not n:
                raise self._changed()
            view, at = view[n:], at + n

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _open(self) -> _OpenFile:
        opened = _opened(self)
        if stamp_of(os.fstat(opened.descriptor)) != self.stamp:
            raise self._changed()
        return opened

    def _changed(self) -> StoreError:
        return StoreError(f"{self.path}: was changed while it was in use. Run the command again")


class _OpenFile:
    """A file's descriptor and its mapped array; closed when no longer used."""

    def __init__(self, array: MappedArray) -> None:
        self.descriptor = os.open(array.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        if stamp_of(os.fstat(self.descriptor)) != array.stamp:
            raise array._changed()
        with open(self.descriptor, "rb", closefd=False) as file:
            mapped = np.memmap(file, array.dtype, "r", array.offset, array.shape) if math.prod(array.shape) else None
        self.values = np.zeros(array.shape, array.dtype) if mapped is None else np.asarray(mapped)


@functools.lru_cache(MAPS_OPEN)
def _opened(array: MappedArray) -> _OpenFile:
    try:
        return _OpenFile(array)
    except OSError as error:
        raise StoreError(f"{array.path}: cannot be read: {error.strerror or error}") from None
