"""Encodes the rows that the store lacks.

A killed process loses at most the current segment; Ctrl-C loses nothing. This module does not import torch, so that a command
without anything to encode does not either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmfeat.encoders.kinds import modality_kind
from mmfeat.extraction.counts import Extraction
from mmfeat.extraction.encoding_loop import EncodingLoop, Session
from mmfeat.extraction.writer import SegmentWriter
from mmfeat.store import EncoderFeatures, Found


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
        encoding = EncodingLoop(session, read, writer, result=result, tokens=tokens, on_error=on_error)
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
