"""From samples to the store: encode what is missing, and only that.

Rows are written in parts as they come, so that an interruption costs at most the part at hand, and an interruption
that can be noticed costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mmfeat.devices import provenance
from mmfeat.encoders.base import Encoder
from mmfeat.encoders.batches import Batch, groups_of, prepared_batches
from mmfeat.progress import progress
from mmfeat.store import EncoderFeatures, UnstorableRow

PART_ROWS = 4096  # rows of a part,
PART_SECONDS = 60.0  # or what comes in this time
BATCH_SIZE = {"image": 16, "text": 64}  # on a CPU, where small batches stay in its caches
GPU_BATCHES = 8  # times as many on a GPU


@dataclass
class Extraction:
    """What one encoder's extraction did; every row of the manifest is in one of the five counts.

    Attributes
    ----------
    cached : int
        Rows whose embedding was in the store already.
    encoded : int
        Distinct samples encoded now (two rows with one caption are one sample).
    repeated : int
        Rows that share their sample with one of those encoded now.
    unreadable : int
        Rows whose sample cannot be read or decoded, found now or before.
    absent : int
        Rows without the modality.
    unread : dict[int, str]
        Rows whose bytes could not be had, with the reason; nothing is stored of them.
    shares : dict[str, float]
        Seconds spent waiting for decoded samples, encoding, and writing.
    """

    name: str
    cached: int = 0
    encoded: int = 0
    repeated: int = 0
    unreadable: int = 0
    absent: int = 0
    seconds: float = 0.0
    unread: dict[int, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "encoding": 0.0, "writing": 0.0})


def missing_rows(features: EncoderFeatures, keys: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Row numbers to encode: present, not in the store, and one for each distinct sample."""
    rows = np.flatnonzero(present & (features.lookup(keys).part < 0))
    _, first = np.unique(keys[rows].view("V32").ravel(), return_index=True)
    return rows[np.sort(first)]


def extract_encoder(
    features: EncoderFeatures,
    build: Callable[[], Encoder],
    keys: np.ndarray,
    present: np.ndarray,
    read: Callable[[int], Any],
    device: torch.device,
    name: str,
    length: Callable[[int], int] | None = None,
) -> Extraction:
    """Encode the rows that the store lacks.

    Parameters
    ----------
    features : EncoderFeatures
        The encoder's folder in the store.
    build : callable
        Gives the encoder; called only where there is something to encode.
    keys, present : np.ndarray
        Row keys `(N, 32)` uint8 and which rows have the modality, `(N,)` bool.
    read : callable
        Row to sample; raises `UnreadSample` where its bytes cannot be had.
    length : callable, optional
        Row to a length: rows of like length share a batch, which saves padding.

    Raises
    ------
    StoreError
        The store cannot be written.
    UnstorableRow
        An embedding does not fit the store's dtype; `row` is the row number.
    """
    start = time.perf_counter()
    todo = missing_rows(features, keys, present)
    result = Extraction(name, absent=int((~present).sum()))
    before = features.lookup(keys)
    result.cached = int((present & (before.part >= 0) & ~before.error).sum())
    if len(todo):
        if length is not None:
            todo = todo[np.argsort([length(row) for row in todo], kind="stable")]
        encoder = build().to(device).eval()
        writer = _Writer(features, keys, provenance(device), result)
        try:
            with progress(f"{name}: encoding", len(todo)) as bar:
                _encode(encoder, todo, read, device, writer, result, bar)
        finally:  # an interruption keeps what was encoded
            writer.flush()
    found = features.lookup(keys)
    result.unreadable = int((found.error & present).sum()) + len(result.unread)
    result.repeated = int(present.sum()) - result.cached - result.encoded - result.unreadable
    result.seconds = time.perf_counter() - start
    return result


def _encode(
    encoder: Encoder, todo: np.ndarray, read: Callable[[int], Any], device: torch.device,
    writer: _Writer, result: Extraction, bar: Any,
) -> None:  # fmt: skip
    groups = groups_of(todo, BATCH_SIZE[encoder.modality] * (1 if device.type == "cpu" else GPU_BATCHES))
    batches = prepared_batches(groups, lambda row: encoder.prepare(read(row)), encoder.collate)
    last = time.perf_counter()
    for group, batch in zip(groups, batches, strict=True):
        decoded = time.perf_counter()
        embeddings = encoder.encode(batch.inputs, device).numpy() if batch.inputs is not None else None
        encoded = time.perf_counter()
        writer.add(batch, embeddings, encoder.width)
        result.shares["decoding"] += decoded - last
        result.shares["encoding"] += encoded - decoded
        last = time.perf_counter()
        result.shares["writing"] += last - encoded
        result.unread |= batch.unread
        bar.advance(len(group))


class _Writer:
    """Gathers rows and writes them as parts."""

    def __init__(self, features: EncoderFeatures, keys: np.ndarray, meta: dict[str, Any], result: Extraction) -> None:
        self.features, self.keys, self.meta, self.result = features, keys, meta, result
        self.rows: list[np.ndarray] = []
        self.embeddings: list[np.ndarray] = []
        self.errors: list[str] = []
        self.since = time.monotonic()

    def add(self, batch: Batch, embeddings: np.ndarray | None, width: int) -> None:
        if embeddings is not None:
            self.rows.append(batch.rows)
            self.embeddings.append(embeddings)
            self.errors += [""] * len(batch.rows)
        if batch.undecodable:
            self.rows.append(np.fromiter(batch.undecodable, dtype=np.int64))
            self.embeddings.append(np.zeros((len(batch.undecodable), width), np.float32))
            self.errors += list(batch.undecodable.values())
        if len(self.errors) >= PART_ROWS or time.monotonic() - self.since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.errors:
            rows, embeddings, errors = np.concatenate(self.rows), np.concatenate(self.embeddings), self.errors
            self.rows, self.embeddings, self.errors = [], [], []
            try:
                self.features.append(self.keys[rows], embeddings, errors, self.meta)
            except UnstorableRow as error:
                raise UnstorableRow(str(error), int(rows[error.row])) from None
            self.result.encoded += errors.count("")
        self.since = time.monotonic()
