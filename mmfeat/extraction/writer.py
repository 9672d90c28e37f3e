"""Writes encoded rows as segments in the background, while the next rows are encoded."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mmfeat.encoders.batches import Batch, Encoded
from mmfeat.store import EncoderFeatures, UnstorableRow

# A segment is written when it reaches one of these limits.
SEGMENT_ROWS = 4096
PART_BYTES = 1 << 28
PART_SECONDS = 60.0


class SegmentWriter:
    """Collects rows and writes them as segments, one at a time, so that at most two segments are in memory.

    Parameters
    ----------
    width : int
        D of the embeddings.
    keys : np.ndarray
        `(N, 32)` uint8 row keys of all rows.
    lacks_embedding : np.ndarray
        `(N,)` bool: rows whose embedding is written; of other rows only tokens are written.
    tokens : int
        Tokens to write, as in mmfeat.toml; 0 for none.
    meta : dict
        Recorded with each segment.

    Attributes
    ----------
    n_encoded : int
        Number of embeddings that were written.
    flat : set of int
        Rows whose image has nearly one colour; add a row here before its batch.
    """

    def __init__(
        self,
        features: EncoderFeatures,
        width: int,
        keys: np.ndarray,
        *,
        lacks_embedding: np.ndarray,
        tokens: int,
        meta: dict[str, Any],
    ) -> None:
        self.features, self.width, self.keys, self.lacks_embedding = features, width, keys, lacks_embedding
        self.tokens, self.meta = tokens, meta
        self.n_encoded = 0
        self.flat: set[int] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mmfeat-write")
        self._writing: Future[None] | None = None
        self._start()

    def _start(self) -> None:
        self._batches: list[tuple[np.ndarray, Encoded]] = []
        self._undecodable: dict[int, str] = {}
        self._rows = self._bytes = 0
        self._since = time.monotonic()

    def add(self, batch: Batch, encoded: Encoded | None) -> None:
        """Add one batch; raises the error of an earlier write."""
        if encoded is not None:
            self._batches.append((batch.rows, encoded))
            self._bytes += sum(array.nbytes for array in encoded if array is not None)
        self._undecodable.update(batch.undecodable)
        self._rows += len(batch.rows) + len(batch.undecodable)
        late = time.monotonic() - self._since > PART_SECONDS
        if self._rows >= SEGMENT_ROWS or self._bytes >= PART_BYTES or late:
            self._flush()

    def close(self) -> None:
        """Write the rest and wait until it is written.

        Raises
        ------
        UnstorableRow, StoreError
            A write has failed.
        """
        try:
            self._flush()
            self._wait()
        finally:
            self._pool.shutdown()

    def _flush(self) -> None:
        self._wait()
        if self._rows:
            self._writing = self._pool.submit(self._write, self._batches, self._undecodable)
        self._start()

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, batches: list[tuple[np.ndarray, Encoded]], undecodable: dict[int, str]) -> None:
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in batches)])
        embeddings = np.concatenate([np.zeros((0, self.width), np.float32), *(e.embeddings for _, e in batches)])
        new = self.lacks_embedding[rows]
        odd = {row: reason for row, reason in undecodable.items() if self.lacks_embedding[row]}
        written = np.concatenate([rows[new], np.fromiter(odd, np.int64, len(odd))])
        values = np.concatenate([embeddings[new], np.zeros((len(odd), self.width), np.float32)])
        errors = [""] * int(new.sum()) + list(odd.values())
        flat = np.fromiter((row in self.flat for row in written.tolist()), bool, len(written))
        add = functools.partial(self.features.append, self.keys[written], values, errors, meta=self.meta, flat=flat)
        self._guarded(add, written)
        self.n_encoded += int(new.sum())
        if self.tokens and batches:
            tokens = np.concatenate([encoded.tokens for _, encoded in batches])
            lengths = np.concatenate([encoded.lengths for _, encoded in batches])
            add_tokens = functools.partial(self.features.append_tokens, self.tokens, self.keys[rows], tokens)
            self._guarded(functools.partial(add_tokens, lengths=lengths, meta=self.meta), rows)

    @staticmethod
    def _guarded(append: Callable[[], None], rows: np.ndarray) -> None:
        """Append rows; converts the row number of an error to that of the manifest."""
        try:
            append()
        except UnstorableRow as error:
            raise UnstorableRow(str(error), int(rows[error.row])) from None
