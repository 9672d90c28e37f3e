"""Imports embeddings of another program: all rows are checked first, then written as segments.

The encoder key is a digest of all ids and stored values. The same embeddings, in any order of rows, are therefore stored
once, and an interrupted import continues with the rows that the store lacks.
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
from mmfeat.config.encoder_tables import OtherEncoderConfig
from mmfeat.store import EncoderFeatures, EncoderSpec

BLOCK_BYTES = 1 << 24  # checked at a time
PART_BYTES = 1 << 25  # size of one segment
_NAMED = 3  # rows in an error message

Blocks = Callable[[int], Iterator[tuple[int, np.ndarray]]]


@dataclass(frozen=True)
class Imported:
    """Embeddings that were checked and can be imported.

    Attributes
    ----------
    spec : EncoderSpec
        Its key is a digest of all ids and values.
    digests : np.ndarray
        `(N, 32)` uint8: of each row's id and values; zeros for rows that are left out.
    n_zeros : int
        Number of rows with only zeros.
    """

    spec: EncoderSpec
    digests: np.ndarray
    n_zeros: int


def examine(
    name: str,
    blocks: Blocks,
    ids: list[str],
    *,
    keys: np.ndarray,
    keep: np.ndarray,
    width: int,
    dtype: str,
    advance: Callable[[int], None],
) -> Imported:
    """Read all rows once: check that each can be stored, and compute the key.

    Parameters
    ----------
    blocks : callable
        Number of rows to blocks of `(n, D)` values, each with the number of its first row.
    keys : np.ndarray
        `(N, 32)` uint8: digests of the ids.
    keep : np.ndarray
        `(N,)` bool: rows that are imported.
    dtype : str
        Of the store: `float16` or `float32`.

    Raises
    ------
    DataError
        Values are not finite, or the dtype cannot hold them; the message names the rows.
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
    spec = EncoderSpec(
        modality=OtherEncoderConfig.modality,
        architecture=name,
        weights=content,
        preprocessing={"rows": int(keep.sum())},
        pooling="imported",
        numerics={"dtype": dtype},
    )
    return Imported(spec, digests, n_zeros)


def row_digests(keys: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """SHA-256 of each row's key and stored values, `(n, 32)` uint8."""
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
    """Rows to import that the store lacks, `(N,)` bool."""
    return keep & ~features.lookup(keys).good


def write_import(
    features: EncoderFeatures,
    blocks: Blocks,
    keys: np.ndarray,
    *,
    digests: np.ndarray,
    missing: np.ndarray,
    width: int,
    meta: dict[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Write the rows of `missing`, `(N,)` bool, in segments; a segment is in the store as soon as it is complete.

    Raises
    ------
    DataError
        The file has changed since it was checked.
    StoreError
        The store cannot be written.
    """
    size = max(1, PART_BYTES // (width * np.dtype(features.dtype).itemsize))
    for start, values in blocks(size):
        rows = start + np.flatnonzero(missing[start : start + len(values)])
        if len(rows):
            stored = _stored(values[rows - start], features.dtype)
            if not np.array_equal(row_digests(keys[rows], stored), digests[rows]):
                raise DataError(
                    "changed while it was read. The rows stored so far are from before the change; import it again"
                )
            features.append(keys[rows], stored, [""] * len(rows), meta=meta)
        advance(len(rows))
