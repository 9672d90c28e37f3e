"""From embeddings that were made elsewhere to the store: examined as a whole first, then written as parts.

The encoder key is a digest of all ids and values as they are stored, so what is imported twice is there once, whatever
the order of its rows, and an import that was interrupted goes on with the rows that the store lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.files import digest_bytes
from mmfeat.common.text import counted, shown
from mmfeat.config.schema import OTHER
from mmfeat.store import EncoderFeatures, EncoderSpec

BLOCK_BYTES = 1 << 24  # examined at a time,
PART_BYTES = 1 << 25  # and written as one part, as they are stored
_NAMED = 3  # rows that an error names

Blocks = Callable[[int], Iterator[tuple[int, np.ndarray]]]


@dataclass(frozen=True)
class Imported:
    """What is to be imported, examined.

    Attributes
    ----------
    spec : EncoderSpec
        Its key covers all ids and values.
    digests : np.ndarray
        `(N, 32)` uint8: of each row's id and values; zeros where the row is left out.
    n_zeros : int
        Rows whose numbers are all zero.
    """

    spec: EncoderSpec
    digests: np.ndarray
    n_zeros: int


def examine(
    name: str,
    blocks: Blocks,
    ids: list[str],
    keys: np.ndarray,
    keep: np.ndarray,
    width: int,
    dtype: str,
    advance: Callable[[int], None],
) -> Imported:
    """Read all rows once: whether each can be stored, and the key of all of them.

    Parameters
    ----------
    blocks : callable
        Size to pieces of `(n, D)` numbers, each with the number of its first row.
    keys : np.ndarray
        `(N, 32)` uint8: digests of the ids.
    keep : np.ndarray
        `(N,)` bool: rows that are imported.
    dtype : str
        Of the store: `float16` or `float32`.

    Raises
    ------
    DataError
        Values that are not finite, or that the dtype cannot hold; the rows are named.
    """
    digests = np.zeros((len(ids), 32), np.uint8)
    odd, large, n_zeros = [], [], 0
    for start, values in blocks(max(1, BLOCK_BYTES // (width * 8))):
        rows = start + np.flatnonzero(keep[start : start + len(values)])
        values = values[rows - start]
        stored = _stored(values, dtype)
        finite = np.isfinite(values).all(1)
        odd += rows[~finite].tolist()
        large += rows[finite & ~np.isfinite(stored).all(1)].tolist()
        n_zeros += int((~stored.any(1)).sum())
        digests[rows] = row_digests(keys[rows], stored)
        advance(len(keep[start : start + len(stored)]))
    if odd:
        raise DataError(f"{_rows(odd, ids)} a value that is not finite (NaN or infinite). Leave such rows out")
    if large:
        raise DataError(
            f'{_rows(large, ids)} a value that {dtype} cannot hold. Set [store] dtype = "float32" in mmfeat.toml, '
            f"or scale all of them"
        )
    content = digest_bytes(np.sort(digests[keep].view("V32").ravel()).tobytes())
    spec = EncoderSpec(OTHER, name, content, {"rows": int(keep.sum())}, "imported", {"dtype": dtype})
    return Imported(spec, digests, n_zeros)


def row_digests(keys: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """SHA-256 of each row's key and values as they are stored, `(n, 32)` uint8."""
    joined = np.concatenate([keys, np.ascontiguousarray(stored).view(np.uint8)], axis=1)
    return np.frombuffer(b"".join(hashlib.sha256(row).digest() for row in joined), np.uint8).reshape(-1, 32)


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.dtype(dtype).newbyteorder("<"))


def _rows(rows: list[int], ids: list[str]) -> str:
    named = ", ".join(f"{row + 1:,} (id {shown(ids[row])!r})" for row in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    one = len(rows) == 1
    return f"{counted(len(rows), 'row')} of {len(ids):,}: {named}{more} {'has' if one else 'have'}"


def lacking(features: EncoderFeatures, keys: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Rows that are to be imported and not in the store yet, `(N,)` bool."""
    return keep & ~features.lookup(keys).good


def write_import(
    features: EncoderFeatures,
    blocks: Blocks,
    keys: np.ndarray,
    digests: np.ndarray,
    missing: np.ndarray,
    width: int,
    meta: dict[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Write the rows of `missing`, `(N,)` bool, in parts; each counts as soon as it is whole.

    Raises
    ------
    DataError
        The file has changed since it was examined.
    StoreError
        The store cannot be written.
    """
    size = max(1, PART_BYTES // (width * np.dtype(features.dtype).itemsize))
    for start, values in blocks(size):
        rows = start + np.flatnonzero(missing[start : start + len(values)])
        if len(rows):
            stored = _stored(values[rows - start], features.dtype)
            if not np.array_equal(row_digests(keys[rows], stored), digests[rows]):
                raise DataError("changed while it was read. What is stored is what was there before; import it again")
            features.append(keys[rows], stored, [""] * len(rows), meta=meta)
        advance(len(rows))
