"""Encodes the rows that the store lacks.

Samples are read and prepared in threads, encoded in batches, and written in the background as segments. A killed process
loses at most the current segment; Ctrl-C loses nothing. This module does not import torch, so that a command without anything
to encode does not either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from mmfeat.common.errors import EncoderError
from mmfeat.common.progress import progress
from mmfeat.encoders.batches import Batch, Encoded, groups_of, prepared_batches
from mmfeat.encoders.kinds import modality_kind
from mmfeat.extraction.writer import SegmentWriter
from mmfeat.store import EncoderFeatures, Found

_WAITING = 0.25  # share of the time from which on decoding counts as the bottleneck
_ADVISED = 10.0  # seconds of encoding from which on shares of the time mean something
_WRITING = 0.1


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


@dataclass
class Extraction:
    """The counts of one encoder's extraction; every row of the manifest is in one of the counts up to `absent`.

    Attributes
    ----------
    cached : int
        Rows whose embedding was already in the store.
    encoded : int
        Distinct samples that were encoded (two rows with one caption are one sample).
    repeated : int
        Rows that share their sample with an encoded one.
    unreadable : int
        Rows whose sample cannot be read or decoded, now or before.
    left : int
        Rows of other shards.
    absent : int
        Rows without the modality.
    tokens : int
        Samples whose embedding was in the store and that got tokens.
    unread : dict[int, str]
        Rows whose bytes could not be read, with the reason; nothing is stored for them.
    batch_size : int
        Samples encoded at a time, at the end.
    tuned : str
        The fastest settings, if they were measured.
    faster_decoding : str
        Advice besides more CPU cores if decoding limits the speed, as the end of a sentence.
    decoded : bool
        Whether samples are images that are decoded.
    imported : bool
        Whether the embeddings are imported, so that nothing can be encoded.
    shares : dict[str, float]
        Seconds spent waiting for decoded samples, encoding, and waiting for the disk.
    """

    name: str
    cached: int = 0
    encoded: int = 0
    repeated: int = 0
    unreadable: int = 0
    left: int = 0
    absent: int = 0
    tokens: int = 0
    seconds: float = 0.0
    unread: dict[int, str] = field(default_factory=dict)
    batch_size: int = 0
    tuned: str = ""
    faster_decoding: str = ""
    decoded: bool = False
    imported: bool = False
    shares: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "encoding": 0.0, "writing": 0.0})

    def add(self, before: Extraction) -> None:
        """Count rows that were encoded before, in another way: here they were found in the store."""
        self.cached -= before.encoded + before.repeated
        self.encoded += before.encoded
        self.repeated += before.repeated
        self.tokens += before.tokens
        self.seconds += before.seconds
        self.batch_size = self.batch_size or before.batch_size
        for name, seconds in before.shares.items():
            self.shares[name] += seconds

    @property
    def advice(self) -> str:
        """Advice on speed; empty if encoding is the bottleneck, as it should be, or if little time was spent.

        In a short extraction, waiting for the first samples and opening files look like a bottleneck.
        """
        total = sum(self.shares.values())
        if total < _ADVISED or self.encoded < 100:
            return ""
        if self.shares["writing"] > _WRITING * total:
            return "the disk is the bottleneck: put [store] path on a faster one"
        if self.decoded and self.shares["decoding"] > _WAITING * total:
            return f"decoding is the bottleneck. Use more CPU cores{self.faster_decoding}"
        return ""


def missing_rows(
    features: EncoderFeatures,
    keys: np.ndarray,
    present: np.ndarray,
    *,
    tokens: int = 0,
    again: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows to encode, one for each distinct sample: present, and without an embedding or tokens in the store.

    Parameters
    ----------
    again : np.ndarray, optional
        Rows to encode even if the store has them, `(N,)` bool.

    Returns
    -------
    tuple of np.ndarray
        The rows, `(n,)` int64, and which of all rows lack their embedding, `(N,)` bool.
    """
    found = features.lookup(keys)
    lacks_embedding = present & (found.missing if again is None else found.missing | again)
    lacks = lacks_embedding
    if tokens:
        lacks = lacks | (present & ~found.error & features.lookup_tokens(tokens, keys).missing)
    return distinct_rows(keys, np.flatnonzero(lacks)), lacks_embedding


def distinct_rows(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The first row of each distinct sample, in the order of `rows`."""
    _, first = np.unique(keys[rows].view("V32").ravel(), return_index=True)
    return rows[np.sort(first)]


def in_shard(keys: np.ndarray, shard: tuple[int, int] | None) -> np.ndarray:
    """Which rows belong to shard k of n, `(N,)` bool; a function of the row key, so that all processes agree."""
    if shard is None:
        return np.ones(len(keys), dtype=bool)
    number, n = shard
    return np.ascontiguousarray(keys[:, :8]).view("<u8").ravel() % np.uint64(n) == np.uint64(number - 1)


def extract_encoder(
    features: EncoderFeatures,
    start: Callable[[np.ndarray], Session],
    keys: np.ndarray,
    *,
    present: np.ndarray,
    read: Callable[[int], Any],
    name: str,
    length: Callable[[int], int] | None = None,
    tokens: int = 0,
    shard: tuple[int, int] | None = None,
    on_error: Callable[[int, str], None] | None = None,
    again: np.ndarray | None = None,
) -> Extraction:
    """Encode the rows that the store lacks.

    Parameters
    ----------
    start : callable
        Opens the encoder for the rows to encode, `(n,)`; called only if there are any.
    keys, present : np.ndarray
        Row keys `(N, 32)` uint8 and which rows have the modality, `(N,)` bool.
    read : callable
        Row to sample; raises `UnreadSample` if it cannot be read.
    length : callable, optional
        Row to the length of its sample; rows of similar length share a batch, which saves padding.
    tokens : int
        Tokens to store beside the embeddings, as in mmfeat.toml; 0 for none.
    shard : (k, n), optional
        Encode only the k-th of n parts of the rows, counted from 1.
    on_error : callable, optional
        Called with a row that cannot be decoded and the reason; if it raises, the extraction ends and keeps what it has.
    again : np.ndarray, optional
        Rows to encode even if the store has them, `(N,)` bool.

    Raises
    ------
    StoreError, UnstorableRow, EncoderError
        The store cannot be written; its dtype cannot hold a row; a single sample is too large for the device.
    """
    begin = time.perf_counter()
    features.sweep()
    again = np.zeros(len(keys), dtype=bool) if again is None else again
    before, ours = features.lookup(keys).only(~again), in_shard(keys, shard)
    todo, lacks = missing_rows(features, keys, present & ours, tokens=tokens, again=again)
    result = _begun(name, features, absent=int((~present).sum()), cached=int((present & before.good).sum()))
    found = before
    if len(todo):
        session = start(todo)
        width, meta = session.encoder.width, session.meta
        writer = SegmentWriter(features, width, keys, lacks_embedding=lacks, tokens=tokens, meta=meta)
        encoding = _Encoding(session, read, writer, result=result, tokens=tokens, on_error=on_error)
        encoding.run(by_length(todo, length))
        result.tokens = int((~lacks[todo]).sum())
        done = ours & ~np.isin(np.arange(len(keys)), list(result.unread))
        found = features.lookup(keys).only(~again | done)
    _count(result, found, present=present, ours=ours)
    result.seconds = time.perf_counter() - begin
    return result


def joined_shards(
    shards: Sequence[Extraction],
    features: EncoderFeatures,
    keys: np.ndarray,
    *,
    present: np.ndarray,
    ours: np.ndarray,
    before: Found,
    again: np.ndarray,
    name: str,
) -> Extraction:
    """The counts of an extraction whose shards other processes have encoded at the same time.

    Parameters
    ----------
    ours : np.ndarray
        Rows of any of the shards, `(N,)` bool.
    before : Found
        The rows that the store had before, without those of `again`.
    again : np.ndarray
        Rows that were to be encoded even if the store had them, `(N,)` bool.
    """
    result = _begun(name, features, absent=int((~present).sum()), cached=int((present & before.good).sum()))
    for shard in shards:
        result.encoded += shard.encoded
        result.tokens += shard.tokens
        result.unread |= shard.unread
        result.seconds = max(result.seconds, shard.seconds)
        result.batch_size = max(result.batch_size, shard.batch_size)
        result.tuned = result.tuned or shard.tuned
        for what, seconds in shard.shares.items():
            result.shares[what] += seconds / len(shards)
    done = ours & ~np.isin(np.arange(len(keys)), list(result.unread))
    _count(result, features.lookup(keys).only(~again | done), present=present, ours=ours)
    return result


def _begun(name: str, features: EncoderFeatures, *, absent: int, cached: int) -> Extraction:
    kind = modality_kind(features.spec.modality)
    return Extraction(name, absent=absent, cached=cached, decoded=kind.decoded, faster_decoding=kind.faster_decoding)


def _count(result: Extraction, found: Found, *, present: np.ndarray, ours: np.ndarray) -> None:
    """Set the counts that follow from the store's content after an extraction."""
    lacking = present & found.missing
    result.left = int((lacking & ~ours).sum())
    result.unreadable = int((found.error & present).sum()) + int((lacking & ours).sum())
    result.repeated = int((found.good & present).sum()) - result.cached - result.encoded


def by_length(rows: np.ndarray, length: Callable[[int], int] | None) -> np.ndarray:
    """Rows sorted by the length of their samples; unchanged without lengths."""
    return rows if length is None else rows[np.argsort([length(row) for row in rows], kind="stable")]


@dataclass(frozen=True)
class _Encoding:
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
        groups = groups_of(todo, self.session.batch_size)
        spent = _Stopwatch(self.result.shares)
        for batch in prepared_batches(groups, self._load, self.session.encoder.collate):
            spent("decoding")
            for part in _encoded(self.session, batch, self.tokens, self.result):
                spent("encoding")
                self.writer.add(*part)
                spent("writing")
            self.result.unread.update(batch.unread)
            for row, reason in {**batch.undecodable, **batch.unread}.items():
                if self.on_error is not None:
                    self.on_error(row, reason)
            bar.advance(len(batch.rows) + len(batch.undecodable) + len(batch.unread))

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


def _encoded(session: Session, batch: Batch, tokens: int, result: Extraction) -> Iterator[tuple[Batch, Encoded | None]]:
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
