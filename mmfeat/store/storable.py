"""Converts an encoder's output to the store's dtype; values that do not fit are an error that names the row."""

from __future__ import annotations

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.text import counted


class UnstorableRow(StoreError):
    """A value is not finite or does not fit into the store's dtype; `row` is the first such row."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def storable(
    keys: np.ndarray, values: np.ndarray, dtype: str, *, architecture: str, bad: np.ndarray | None = None
) -> np.ndarray:
    """Values `(n, D)` in the store's dtype, little-endian; zeros for rows with an error.

    Parameters
    ----------
    keys : np.ndarray
        `(n, 32)` uint8, for messages.
    bad : np.ndarray, optional
        `(n,)` bool: rows with an error, whose values are ignored.

    Raises
    ------
    UnstorableRow
        A value is not finite, or too large for the dtype.
    """
    bad = np.zeros(len(keys), dtype=bool) if bad is None else bad
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.where(bad[:, None], 0, values).astype(np.dtype(dtype).newbyteorder("<"))
    wrong = np.flatnonzero(~np.isfinite(stored).all(1))
    if len(wrong):
        row = int(wrong[0])
        finite = np.isfinite(values[row]).all()
        largest = f"{np.abs(values[row]).max():.4g}"
        what = f"{largest}, which {dtype} cannot hold" if finite else "a value that is not finite"
        remedy = 'Set [store] dtype = "float32"' if finite else "Set another precision or model"
        raise UnstorableRow(
            f"{architecture}: the embedding of row key {keys[row].tobytes().hex()[:16]}… has {what} "
            f"({len(wrong)} of {counted(len(stored), 'row')}). {remedy} in mmfeat.toml",
            row,
        )
    return stored
