"""The loop of an extraction: samples are read and prepared in threads, encoded in batches, and written in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from mmfeat.common.errors import EncoderError
from mmfeat.common.progress import progress
from mmfeat.encoders.batches import Batch, Encoded, groups_of, in_threads, prepared_batches
from mmfeat.extraction.counts import Extraction
from mmfeat.extraction.writer import SegmentWriter

_Part = tuple[Batch, Encoded | None]  # a batch, or a part of one that does not fit into memory, and its output


@dataclass(frozen=True)
class Session:
    """An encoder ready to encode.

    Attributes
    ----------
    encoder : Encoder
        In eval mode on `device`.
    batch_size : int
        Samples encoded at a time.
    meta : dict
        Recorded with each segment: host, device, engine, versions.
    tuned : str
        The fastest engine and settings, if they were measured now.
    engine : Engine, optional
        Executes the network; by default the encoder itself.
    prepared : dict of int to Any
        Rows that are prepared already, because engines were measured on them.
    """

    encoder: Any
    device: Any
    batch_size: int
    meta: dict[str, Any]
    tuned: str = ""
    engine: Any = None
    prepared: dict[int, Any] = field(default_factory=dict)

    @property
    def at_once(self) -> int:
        """Number of batches to encode at the same time."""
        return 1 if self.engine is None else int(self.engine.at_once)

    def encode(self, inputs: Any, tokens: int = 0) -> Encoded:
        """Embeddings of one batch, and tokens if `tokens` is not 0, padded to at least so many."""
        if self.engine is None:
            found = self.encoder.encode(inputs, self.device, tokens)
        else:
            found = self.engine.encode(inputs)
        lacking = tokens - found.tokens.shape[1] if tokens else 0
        if lacking <= 0:
            return found
        return found._replace(tokens=np.pad(found.tokens, ((0, 0), (0, lacking), (0, 0))))


@dataclass(frozen=True)
class EncodingLoop:
    """Encodes rows into segments, and counts them in `result`."""

    session: Session
    read: Callable[[int], Any]
    writer: SegmentWriter
    _: KW_ONLY
    result: Extraction
    tokens: int
    on_error: Callable[[int, str], None] | None

    def run(self, todo: np.ndarray) -> None:
        """Encode rows. After an interruption, all encoded rows are still written."""
        self.result.tuned, self.result.batch_size = self.session.tuned, self.session.batch_size
        try:
            with progress(f"{self.result.name}: encoding", len(todo)) as bar:
                self._encode(todo, bar)
        finally:
            self.writer.close()
            self.result.encoded = self.writer.n_encoded

    def _encode(self, todo: np.ndarray, bar: Any) -> None:
        spent = _Stopwatch(self.result.shares)
        batches = prepared_batches(groups_of(todo, self.session.batch_size), self._load, self.session.encoder.collate)
        for batch, parts in in_threads(spent.on("decoding", batches), self._parts, self.session.at_once):
            spent("encoding")
            for part in parts:
                self.writer.add(*part)
            spent("writing")
            self.result.unread.update(batch.unread)
            for row, reason in {**batch.undecodable, **batch.unread}.items():
                if self.on_error is not None:
                    self.on_error(row, reason)
            bar.advance(len(batch.rows) + len(batch.undecodable) + len(batch.unread))

    def _parts(self, batch: Batch) -> list[_Part]:
        return list(_encoded(self.session, batch, self.tokens, self.result))

    def _load(self, row: int) -> Any:
        encoder = self.session.encoder
        prepared = self.session.prepared.pop(row, None)
        if prepared is None:
            prepared = encoder.prepare(self.read(row))
        if encoder.is_flat(prepared):
            self.writer.flat.add(row)
        return prepared


class _Stopwatch:
    """Adds the time since the last call to the entry that it is called with."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now

    def on(self, name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time that each one is waited for is added to an entry."""
        for batch in batches:
            self(name)
            yield batch


def _encoded(session: Session, batch: Batch, tokens: int, result: Extraction) -> Iterator[_Part]:
    """Encode one batch; it is halved as long as it does not fit into the device's memory."""
    if batch.inputs is None:
        yield batch, None
        return
    if len(batch.rows) <= result.batch_size:
        encoded = None
        try:
            encoded = session.encode(batch.inputs, tokens)
        except Exception as error:
            if not session.encoder.out_of_memory(error):
                raise
            if len(batch.rows) == 1:
                raise EncoderError(
                    f"{result.name}: a single sample is too large for the memory of {session.device}. "
                    f'In mmfeat.toml set a smaller size, or: device = "cpu"'
                ) from None
            result.batch_size = len(batch.rows) // 2
        if encoded is not None:
            yield batch, encoded
            return
    half = len(batch.rows) // 2
    for rows in (slice(0, half), slice(half, None)):
        inputs = {name: values[rows] for name, values in batch.inputs.items()}
        odd = (batch.undecodable, batch.unread) if rows.start else ({}, {})
        yield from _encoded(session, Batch(batch.rows[rows], inputs, *odd), tokens, result)
