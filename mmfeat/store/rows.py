"""From row keys to places in parts, and from places to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Found:
    """Where rows are.

    Attributes
    ----------
    part : np.ndarray
        `(N,)` int32, -1 where the store has no such row.
    row : np.ndarray
        `(N,)` int64, the row's number within its part.
    error : np.ndarray
        `(N,)` bool: the row is there and says that its sample could not be decoded.
    """

    part: np.ndarray
    row: np.ndarray
    error: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """`(N,)` bool: the row has an embedding."""
        return (self.part >= 0) & ~self.error

    def take(self, rows: np.ndarray) -> Found:
        """The same for some of the rows."""
        return Found(self.part[rows], self.row[rows], self.error[rows])


class RowIndex:
    """Finds row keys among parts by binary search; of two copies a good one is preferred to an error."""

    def __init__(self, keys: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> None:
        counts = [len(k) for k in keys]
        part = np.repeat(np.arange(len(keys), dtype=np.int32), counts)
        row = np.concatenate([np.arange(n) for n in counts]) if counts else np.zeros(0, np.int64)
        error = np.concatenate(errors).astype(bool) if counts else np.zeros(0, bool)
        joined = _sortable(np.concatenate(keys)) if counts else np.zeros(0, "S32")
        order = np.lexsort((part, error))  # among equal keys: good ones first, then the earlier part
        order = order[np.argsort(joined[order], kind="stable")]
        joined = joined[order]
        first = np.append(True, joined[1:] != joined[:-1]) if len(joined) else np.zeros(0, bool)
        self.keys = joined[first]
        self.part, self.row, self.error = (a[order][first] for a in (part, row, error))

    def find(self, keys: np.ndarray) -> Found:
        """Places of `(N, 32)` uint8 row keys."""
        asked = _sortable(keys)
        if not len(self.keys):
            n = len(asked)
            return Found(np.full(n, -1, np.int32), np.full(n, -1, np.int64), np.zeros(n, bool))
        at = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
        there = self.keys[at] == asked
        part = np.where(there, self.part[at], -1).astype(np.int32)
        return Found(part, np.where(there, self.row[at], -1), there & self.error[at])


def _sortable(keys: np.ndarray) -> np.ndarray:
    """`(N, 32)` uint8 as `(N,)` byte strings that compare as a whole."""
    if keys.shape[1:] != (32,) or keys.dtype != np.uint8:
        raise ValueError(f"row keys are (N, 32) uint8, found {keys.shape} {keys.dtype}")
    # A trailing zero byte is dropped when byte strings are compared; equal length makes that harmless.
    return np.ascontiguousarray(keys).view("S32").ravel()


class MappedRows:
    """Rows scattered over mapped files, as one array that is only read when it is indexed.

    Parameters
    ----------
    parts : sequence of (n_i, D) arrays
        The mapped files.
    found : Found
        Where each of the N rows is. Reading a row that is nowhere gives zeros.
    """

    def __init__(self, parts: Sequence[np.ndarray], found: Found) -> None:
        self.parts = list(parts)
        self.found = found

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, D)`; D is 0 where there is no part at all."""
        return len(self.found.part), self.parts[0].shape[1] if self.parts else 0

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values."""
        return self.parts[0].dtype if self.parts else np.dtype(np.float16)

    def __len__(self) -> int:
        return len(self.found.part)

    def take(self, rows: np.ndarray) -> MappedRows:
        """Some of the rows, still unread."""
        return MappedRows(self.parts, self.found.take(rows))

    def __getitem__(self, rows: np.ndarray | slice | int) -> np.ndarray:
        """Read rows: an int array, a bool array or a slice gives `(n, D)`, one number `(D,)`."""
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        part, row = self.found.part[rows], self.found.row[rows]
        values = np.zeros((len(part), self.shape[1]), self.dtype)
        for number in np.unique(part[part >= 0]):
            here = np.flatnonzero(part == number)
            order = np.argsort(row[here], kind="stable")  # the file is read forwards
            values[here[order]] = self.parts[number][row[here[order]]]
        return values

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype)
