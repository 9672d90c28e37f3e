"""Estimates of an extraction's time and size, measured on a few of its batches; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.encoders.batches import Batch, groups_of, in_threads, prepared_batches
from mmfeat.extraction.encode import by_length
from mmfeat.extraction.encoding_loop import Session

BATCHES = 8  # most batches to measure, spread over all rows
SECONDS = 5.0  # time after which no further batch is measured
_ROW_BYTES = 64  # bytes of a row in a segment besides its values: the row key, and an error on average
_KEY_BYTES = 34  # bytes of a row of tokens or logits besides its values: the row key, and a length


@dataclass(frozen=True)
class Estimate:
    """Estimated seconds, and bytes that the store would grow by."""

    seconds: float
    n_bytes: int


def estimate(
    session: Session,
    todo: np.ndarray,
    read: Callable[[int], Any],
    dtype: str,
    *,
    tokens: int = 0,
    length: Callable[[int], int] | None = None,
) -> Estimate:
    """Encode a few of the batches of an extraction of `todo`, and discard the result.

    Parameters
    ----------
    todo : np.ndarray
        Row numbers, `(n,)`.
    read, tokens, length
        As for `extract_encoder`.
    dtype : str
        Of the store.
    """
    todo, size = by_length(todo, length), session.batch_size
    while True:
        try:
            rows, seconds, width = _measured(session, todo, size, read=read, tokens=tokens)
            break
        except Exception as error:
            if size == 1 or not session.encoder.out_of_memory(error):
                raise
            size //= 2
    n_bytes = embeddings_bytes(len(todo), session.encoder.width, dtype)
    n_bytes += len(todo) * (width * np.dtype(dtype).itemsize + _KEY_BYTES) if width else 0
    return Estimate(seconds * len(todo) / max(rows, 1), n_bytes)


def logits_bytes(n_rows: int, n_classes: int) -> int:
    """Bytes of the logits of `n_rows` rows."""
    return n_rows * (4 * n_classes + _KEY_BYTES)


def embeddings_bytes(n_rows: int, width: int, dtype: str) -> int:
    """Bytes of `n_rows` embeddings."""
    return n_rows * (width * np.dtype(dtype).itemsize + _ROW_BYTES)


def _measured(
    session: Session, todo: np.ndarray, size: int, *, read: Callable[[int], Any], tokens: int
) -> tuple[int, float, int]:
    """Number of rows that were encoded, seconds, and number of values of one row's tokens."""
    encoder, groups = session.encoder, groups_of(todo, size)
    spread = np.unique(np.linspace(0, len(groups) - 1, min(BATCHES, len(groups)), dtype=int))
    order = [
        groups[i] for i in np.random.default_rng(0).permutation(spread)
    ]  # in random order, so that the first few are a sample
    rows = width = 0
    begin, warm = time.perf_counter(), True

    def encode(batch: Batch) -> int:
        nonlocal begin, warm
        if batch.inputs is None:
            return 0
        if warm:  # the first pass is slower
            warm, before = False, time.perf_counter()
            session.encode(batch.inputs, tokens)
            begin += time.perf_counter() - before
        encoded = session.encode(batch.inputs, tokens)
        return 0 if encoded.tokens is None else int(np.prod(encoded.tokens.shape[1:]))

    batches = prepared_batches(order, lambda row: encoder.prepare(read(row)), encoder.collate)
    for batch, values in in_threads(batches, encode, session.at_once):
        width = max(width, values)
        rows += len(batch.rows) + len(batch.undecodable) + len(batch.unread)
        if time.perf_counter() - begin > SECONDS:
            break
    return rows, time.perf_counter() - begin, width
