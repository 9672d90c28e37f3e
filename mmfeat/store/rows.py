"""Finds row keys in segments, and reads the found rows as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import MissingFeatures
from mmfeat.store.mapped import MappedArray


@dataclass(frozen=True)
class Found:
    """The places of rows in the store.

    Attributes
    ----------
    segment : np.ndarray
        `(N,)` int32, the number of the row's segment; -1 for a missing row.
    row : np.ndarray
        `(N,)` int64, the row's index within its segment; -1 for a missing row.
    error : np.ndarray
        `(N,)` bool: the row records that its sample could not be decoded.
    """

    segment: np.ndarray
    row: np.ndarray
    error: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """`(N,)` bool: the row has an embedding."""
        return (self.segment >= 0) & ~self.error

    @property
    def missing(self) -> np.ndarray:
        """`(N,)` bool: the row is not in the store."""
        return self.segment < 0

    def take(self, rows: np.ndarray | slice) -> Found:
        """The places of some rows."""
        return Found(self.segment[rows], self.row[rows], self.error[rows])

    def only(self, mask: np.ndarray) -> Found:
        """The same places; rows outside of `mask` `(N,)` bool count as missing."""
        segment, row = np.where(mask, self.segment, np.int32(-1)), np.where(mask, self.row, np.int64(-1))
        return Found(segment, row, self.error & mask)


class RowIndex:
    """Finds row keys in segments by binary search; a copy with an embedding is preferred to one with an error.

    Keys are digests, so their first eight bytes almost always differ and are compared first; whole keys decide otherwise.

    Parameters
    ----------
    keys, errors : sequence of np.ndarray
        For each segment, its row keys `(n, 32)` uint8 and which rows are errors, `(n,)` bool.
    numbers : sequence of int
        The segments' numbers.
    """

    def __init__(self, keys: Sequence[np.ndarray], errors: Sequence[np.ndarray], numbers: Sequence[int]) -> None:
        segment = np.concatenate(
            [np.zeros(0, np.int32), *(np.full(len(k), i, np.int32) for i, k in zip(numbers, keys, strict=True))]
        )
        row = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(k)) for k in keys)])
        error = np.concatenate([np.zeros(0, bool), *errors])
        joined = np.concatenate([np.zeros((0, 32), np.uint8), *keys])
        order = (
            np.argsort(error, kind="stable") if error.any() else np.arange(len(error))
        )  # rows without an error first
        prefix = _prefix(joined)
        order = order[np.argsort(prefix[order], kind="stable")]
        alike = prefix[order[1:]] == prefix[order[:-1]]
        same = np.zeros(len(alike), dtype=bool)
        near = np.flatnonzero(alike)
        same[near] = (joined[order[near]] == joined[order[near + 1]]).all(1)
        self._whole = bool((alike & ~same).any())
        if self._whole:
            order = np.argsort(error, kind="stable")
            order = order[np.argsort(_sortable(joined)[order], kind="stable")]
            same = (joined[order[1:]] == joined[order[:-1]]).all(1)
        first = np.concatenate([np.ones(min(1, len(order)), dtype=bool), ~same])
        self.n_copies = int(len(order) - first.sum())
        order = order[first]
        self.keys, self.segment, self.row, self.error = joined[order], segment[order], row[order], error[order]
        self._order = self._comparable(self.keys)

    def _comparable(self, keys: np.ndarray) -> np.ndarray:
        return _sortable(keys) if self._whole else _prefix(keys)

    def find(self, keys: np.ndarray) -> Found:
        """Places of row keys `(N, 32)` uint8."""
        asked = self._comparable(check_keys(keys))
        at = np.zeros(len(asked), dtype=np.int64)
        order = np.argsort(asked)  # sorted searches stay in the processor's cache
        at[order] = np.searchsorted(self._order, asked[order])
        inside = np.flatnonzero(at < len(self.keys))
        there = inside[(self.keys[at[inside]] == keys[inside]).all(1)]
        segment, row = np.full(len(asked), -1, np.int32), np.full(len(asked), -1, np.int64)
        segment[there], row[there] = self.segment[at[there]], self.row[at[there]]
        error = np.zeros(len(asked), dtype=bool)
        error[there] = self.error[at[there]]
        return Found(segment, row, error)


def check_keys(keys: np.ndarray) -> np.ndarray:
    """Raise ValueError unless these are row keys, `(N, 32)` uint8."""
    if keys.ndim != 2 or keys.shape[1] != 32 or keys.dtype != np.uint8:
        raise ValueError(f"row keys are (N, 32) uint8, found {keys.shape} {keys.dtype}")
    return keys


def _prefix(keys: np.ndarray) -> np.ndarray:
    """The first eight bytes of keys `(N, 32)` uint8 as `(N,)` uint64 with the same order."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)


def _sortable(keys: np.ndarray) -> np.ndarray:
    """Keys `(N, 32)` uint8 as `(N,)` byte strings with the same order."""
    # numpy ignores trailing zero bytes when it compares byte strings; equal lengths make that harmless.
    return np.ascontiguousarray(keys).view("S32").ravel()


class MappedRows:
    """Rows of several mapped files as one array; only indexed rows are read.

    Parameters
    ----------
    segments : sequence of MappedArray, `(n_i, D)` or `(n_i, T, d)`, or None
        The mapped files; None for a segment without such an array.
    found : Found
        The places of the N rows. Missing rows read as zeros.
    columns : np.ndarray, optional
        `(D,)`: the wanted order of columns (default: as stored).
    width : int
        D if there are no segments.
    """

    def __init__(
        self, segments: Sequence[MappedArray | None], found: Found, *, columns: np.ndarray | None = None, width: int = 0
    ) -> None:
        in_order = columns is None or np.array_equal(columns, np.arange(len(columns)))
        self.columns = None if in_order else columns
        self.segments = list(segments)
        self.found = found
        some = [segment for segment in self.segments if segment is not None]
        self._row_shape = some[0].shape[1:] if some else (width,)
        self.dtype = np.result_type(*{segment.dtype for segment in some}) if some else np.dtype(np.float16)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, D)` or `(N, T, d)`; D is `width` if there are no segments."""
        return len(self.found.segment), *self._row_shape

    def __len__(self) -> int:
        return len(self.found.segment)

    def take(self, rows: np.ndarray | slice) -> MappedRows:
        """Some of the rows; nothing is read."""
        return MappedRows(self.segments, self.found.take(rows), columns=self.columns, width=self._row_shape[-1])

    def with_width(self, width: int) -> MappedRows:
        """The same rows, with `width` as D if there are no segments."""
        return MappedRows(self.segments, self.found, columns=self.columns, width=width)

    def __getitem__(self, rows: np.ndarray | slice | int) -> np.ndarray:
        """Read rows: an int array, a bool array or a slice gives `(n, ...)`; an integer gives one row.

        Raises
        ------
        StoreError
            A file has changed since it was verified; MissingFeatures if a row's segment has no such array.
        """
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        values = self._as_they_lie(rows)
        return values if self.columns is None else values.take(self.columns, axis=1)

    def _as_they_lie(self, rows: np.ndarray | slice) -> np.ndarray:
        segment, row = self.found.segment[rows], self.found.row[rows]
        if len(segment) and segment[0] >= 0 and (segment == segment[0]).all():
            array = self._segment(segment[0])
            if array.dtype == self.dtype:
                return _read(array, row)
        values = np.zeros((len(segment), *self._row_shape), self.dtype)
        order = np.lexsort((row, segment))  # each file is read once, in order
        order = order[np.searchsorted(segment[order], 0) :]  # without missing rows
        for here in np.split(order, np.flatnonzero(np.diff(segment[order])) + 1):
            if len(here):
                values[here] = _read(self._segment(segment[here[0]]), row[here])
        return values

    def _segment(self, number: int) -> MappedArray:
        array = self.segments[number]
        if array is None:
            raise MissingFeatures("features: no logits of some of these rows. Run: mmfeat extract")
        return array

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows of several files cannot be read without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


def _read(array: MappedArray, rows: np.ndarray) -> np.ndarray:
    """Rows of one segment as a new array; consecutive rows are read at once."""
    start, n = int(rows[0]), len(rows)
    if int(rows[-1]) - start != n - 1 or (n > 2 and (np.diff(rows) != 1).any()):
        return array[rows]
    values = np.empty((n, *array.shape[1:]), array.dtype)
    array.read_into(start, start + n, values)
    return values
