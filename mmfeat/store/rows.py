"""From row keys to places in parts, and from places to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import MissingFeatures
from mmfeat.store.mapped import MappedArray


@dataclass(frozen=True)
class Found:
    """Where rows are.

    Attributes
    ----------
    part : np.ndarray
        `(N,)` int32, -1 where the store has no such row.
    row : np.ndarray
        `(N,)` int64, the row's number within its part, -1 where the store has no such row.
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

    @property
    def missing(self) -> np.ndarray:
        """`(N,)` bool: the store has no such row."""
        return self.part < 0

    def take(self, rows: np.ndarray | slice) -> Found:
        """The same for some of the rows."""
        return Found(self.part[rows], self.row[rows], self.error[rows])

    def only(self, mask: np.ndarray) -> Found:
        """The same with all rows but those of `mask`, `(N,)` bool, as if they were not there."""
        part, row = np.where(mask, self.part, np.int32(-1)), np.where(mask, self.row, np.int64(-1))
        return Found(part, row, self.error & mask)


class RowIndex:
    """Finds row keys among parts by binary search; of two copies a good one is preferred to an error.

    Keys are digests: their first eight bytes tell them apart, and are compared first. Where they do not, whole keys are.

    Parameters
    ----------
    keys, errors : sequence of np.ndarray
        For each part its row keys `(n, 32)` uint8 and which rows are errors, `(n,)` bool.
    numbers : sequence of int
        The parts' numbers.
    """

    def __init__(self, keys: Sequence[np.ndarray], errors: Sequence[np.ndarray], numbers: Sequence[int]) -> None:
        part = np.concatenate(
            [np.zeros(0, np.int32), *(np.full(len(k), i, np.int32) for i, k in zip(numbers, keys, strict=True))]
        )
        row = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(k)) for k in keys)])
        error = np.concatenate([np.zeros(0, bool), *errors])
        joined = np.concatenate([np.zeros((0, 32), np.uint8), *keys])
        order = np.argsort(error, kind="stable") if error.any() else np.arange(len(error))  # good ones first
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
        self.keys, self.part, self.row, self.error = joined[order], part[order], row[order], error[order]
        self._order = self._comparable(self.keys)

    def _comparable(self, keys: np.ndarray) -> np.ndarray:
        return _sortable(keys) if self._whole else _prefix(keys)

    def find(self, keys: np.ndarray) -> Found:
        """Places of `(N, 32)` uint8 row keys."""
        asked = self._comparable(check_keys(keys))
        at = np.zeros(len(asked), dtype=np.int64)
        order = np.argsort(asked)  # a search in order stays in the processor's cache
        at[order] = np.searchsorted(self._order, asked[order])
        inside = np.flatnonzero(at < len(self.keys))
        there = inside[(self.keys[at[inside]] == keys[inside]).all(1)]
        part, row = np.full(len(asked), -1, np.int32), np.full(len(asked), -1, np.int64)
        part[there], row[there] = self.part[at[there]], self.row[at[there]]
        error = np.zeros(len(asked), dtype=bool)
        error[there] = self.error[at[there]]
        return Found(part, row, error)


def check_keys(keys: np.ndarray) -> np.ndarray:
    """Raise ValueError unless these are row keys, `(N, 32)` uint8."""
    if keys.ndim != 2 or keys.shape[1] != 32 or keys.dtype != np.uint8:
        raise ValueError(f"row keys are (N, 32) uint8, found {keys.shape} {keys.dtype}")
    return keys


def _prefix(keys: np.ndarray) -> np.ndarray:
    """The first eight bytes of `(N, 32)` uint8 as `(N,)` uint64 that compare as the bytes do."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)


def _sortable(keys: np.ndarray) -> np.ndarray:
    """`(N, 32)` uint8 as `(N,)` byte strings that compare as a whole."""
    # numpy drops trailing zero bytes when it compares byte strings; their equal length makes that harmless.
    return np.ascontiguousarray(keys).view("S32").ravel()


class MappedRows:
    """Rows scattered over mapped files, as one array that is only read when it is indexed.

    Parameters
    ----------
    parts : sequence of MappedArray, `(n_i, D)` or `(n_i, T, d)`, or None
        The mapped files; None where a part lacks what is asked for.
    found : Found
        Where each of the N rows is. A row that is nowhere reads as zeros.
    columns : np.ndarray, optional
        `(D,)`: the order in which a row's D numbers are read; as they lie, when None.
    width : int
        D where there is no part at all.
    """

    def __init__(
        self, parts: Sequence[MappedArray | None], found: Found, columns: np.ndarray | None = None, width: int = 0
    ) -> None:
        in_order = columns is None or np.array_equal(columns, np.arange(len(columns)))
        self.columns = None if in_order else columns
        self.parts = list(parts)
        self.found = found
        some = [part for part in self.parts if part is not None]
        self._row_shape = some[0].shape[1:] if some else (width,)
        self.dtype = np.result_type(*{part.dtype for part in some}) if some else np.dtype(np.float16)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, D)` or `(N, T, d)`; D is `width` where there is no part at all."""
        return len(self.found.part), *self._row_shape

    def __len__(self) -> int:
        return len(self.found.part)

    def take(self, rows: np.ndarray | slice) -> MappedRows:
        """Some of the rows, still unread."""
        return MappedRows(self.parts, self.found.take(rows), self.columns, self._row_shape[-1])

    def with_width(self, width: int) -> MappedRows:
        """The same rows, D being `width` where no part says it."""
        return MappedRows(self.parts, self.found, self.columns, width)

    def __getitem__(self, rows: np.ndarray | slice | int) -> np.ndarray:
        """Read rows: an int array, a bool array or a slice gives `(n, ...)`, one number a single row.

        Raises
        ------
        StoreError
            A file is not what it was when it was found. MissingFeatures where a row's part lacks what is asked for.
        """
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        values = self._as_they_lie(rows)
        return values if self.columns is None else values.take(self.columns, axis=1)

    def _as_they_lie(self, rows: np.ndarray | slice) -> np.ndarray:
        part, row = self.found.part[rows], self.found.row[rows]
        if len(part) and part[0] >= 0 and (part == part[0]).all():
            array = self._part(part[0])
            if array.dtype == self.dtype:
                return _read(array, row)
        values = np.zeros((len(part), *self._row_shape), self.dtype)
        order = np.lexsort((row, part))  # every file is read once, forwards
        order = order[np.searchsorted(part[order], 0) :]  # but for rows that are nowhere
        for here in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            if len(here):
                values[here] = _read(self._part(part[here[0]]), row[here])
        return values

    def _part(self, number: int) -> MappedArray:
        array = self.parts[number]
        if array is None:
            raise MissingFeatures("features: no logits of some of these rows. Run: mmfeat extract")
        return array

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows are gathered from several files: they cannot be had without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


def _read(array: MappedArray, rows: np.ndarray) -> np.ndarray:
    """Rows of one part as a new array; a run of neighbours in one go."""
    start, n = int(rows[0]), len(rows)
    if int(rows[-1]) - start != n - 1 or (n > 2 and (np.diff(rows) != 1).any()):
        return array[rows]
    values = np.empty((n, *array.shape[1:]), array.dtype)
    array.read_into(start, start + n, values)
    return values
