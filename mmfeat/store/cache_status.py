"""The cache status of each encoder: how many rows are cached, missing, stale and unreadable, and why."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import modality_table
from mmfeat.store.commits import EMBEDDINGS, commit_paths
from mmfeat.store.encoder_record import read_record
from mmfeat.store.feature_store import FeatureStore
from mmfeat.store.features import EncoderFeatures
from mmfeat.store.keys import EncoderSpec, explain

_SHOWN = 3  # reasons of unreadable rows in a message


@dataclass(frozen=True, kw_only=True)
class EncoderStatus:
    """Counts of a manifest's rows for one encoder; cached, missing, stale, unreadable and absent add up to all rows.

    Attributes
    ----------
    cached : int
        Rows with an embedding.
    stale : int
        Rows with features of an earlier version of the sample or of the encoder; `why` tells what changed.
    missing : int
        Rows without any features.
    unreadable : int
        Rows recorded as unreadable (the decoder failed).
    absent : int
        Rows without the modality: a blank caption, a missing image.
    lacks_logits, lacks_tokens : int
        Cached rows without logits of the current output, or without the requested tokens.
    why : str
        The reasons, joined by semicolons.
    flat : tuple of int
        Cached rows whose image has a single colour, or nearly so.
    """

    name: str
    model: str
    cached: int
    missing: int
    stale: int
    unreadable: int
    absent: int
    why: str
    lacks_logits: int = 0
    lacks_tokens: int = 0
    flat: tuple[int, ...] = ()


def encoder_status(
    store: FeatureStore,
    name: str,
    model: str,
    *,
    spec: EncoderSpec,
    keys: np.ndarray,
    present: np.ndarray,
    output_key: str | None = None,
    tokens: int = 0,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
    again: np.ndarray | None = None,
) -> EncoderStatus:
    """Count one encoder's rows by their keys `(N, 32)` uint8 and presence `(N,)` bool.

    Parameters
    ----------
    seen : tuple of np.ndarray, optional
        Earlier row keys `(N, 32)` uint8, and for which rows they are known, `(N,)` bool.
    again : np.ndarray, optional
        Rows that are encoded again in any case, `(N,)` bool.

    Raises
    ------
    StoreError
        The store cannot be read, or the encoder's files were written by a newer mmfeat.
    """
    features = store.encoder(spec)
    before = features.lookup(keys)
    redone = present & ~before.missing & (False if again is None else again)
    found = before.only(~redone)
    lacking = present & found.missing & ~redone
    changed = _changed_content(features, keys, lacking, seen=seen)
    stale, why = stale_rows(store, spec, keys, lacking=lacking & ~changed)
    cached = found.good & present
    lacks_tokens = int((cached & features.lookup_tokens(tokens, keys).missing).sum()) if tokens else 0
    lacks_logits = _lacking_logits(features, found.segment[cached], output_key)
    errors = Counter(reason for row, reason in features.errors_of(keys).items() if present[row] and not redone[row])
    counts = (
        (int(changed.sum()), modality_table(spec.modality).sample, "changed"),
        (int((redone & before.good).sum()), "image", "decoded differently now"),
        (int((redone & before.error).sum()), "unreadable image", "to be tried again"),
        (lacks_tokens, "row", "without tokens"),
        (lacks_logits, "row", "without logits"),
    )
    reasons = [f"{counted(n, noun)} {what}" for n, noun, what in counts if n]
    reasons += [f"{n:,} unreadable: {reason}" for reason, n in errors.most_common(_SHOWN)]
    return EncoderStatus(
        name=name,
        model=model,
        cached=int(cached.sum()),
        missing=int((lacking & ~stale & ~changed).sum()),
        stale=int((stale | changed | redone).sum()),
        unreadable=int((found.error & present).sum()),
        absent=int((~present).sum()),
        why="; ".join(filter(None, [why, *reasons])),
        lacks_logits=lacks_logits,
        lacks_tokens=lacks_tokens,
        flat=tuple(np.flatnonzero(cached & features.flat(found)).tolist()),
    )


def _changed_content(
    features: EncoderFeatures, keys: np.ndarray, lacking: np.ndarray, *, seen: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """The lacking rows whose earlier content this encoder has cached, `(N,)` bool."""
    if seen is None or not lacking.any():
        return np.zeros(len(lacking), dtype=bool)
    before, known = seen
    return lacking & known & (before != keys).any(1) & features.lookup(before).good


def _lacking_logits(features: EncoderFeatures, segment: np.ndarray, output_key: str | None) -> int:
    """How many rows in these segments, `(n,)`, have no logits of an output."""
    if output_key is None:
        return 0
    files = features.logits_files(output_key)
    numbers, counts = np.unique(segment, return_counts=True)
    return int(sum(n for number, n in zip(numbers, counts, strict=True) if files[number] is None))


@dataclass(frozen=True, kw_only=True)
class StoredEncoder:
    """The stored features of one encoder.

    Attributes
    ----------
    name : str
        The folder's name.
    rows : int
        Rows with an embedding or a recorded error.
    created, written : str
        When the folder was made, and when its newest segment was committed.
    outputs, tokens : int
        Number of outputs with logits, and of kinds of tokens.
    """

    name: str
    spec: EncoderSpec
    rows: int
    segments: int
    outputs: int
    tokens: int
    n_bytes: int
    created: str
    written: str


def stored_encoders(store: FeatureStore) -> list[StoredEncoder]:
    """All encoders of a store, newest first.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    listed = []
    for features in store.encoders():
        features.refresh()
        kinds = {commit.kind for commit in features.commits}
        tokens = sum(kind.startswith("tokens-") for kind in kinds)
        segments = features.series[EMBEDDINGS].current_files
        times = [path.stat().st_mtime for path in commit_paths(features.folder)]
        written = time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(times))) if times else ""
        listed.append(
            StoredEncoder(
                name=features.folder.name,
                spec=features.spec,
                rows=features.n_rows,
                segments=len(segments),
                outputs=len(kinds) - tokens - (EMBEDDINGS in kinds),
                tokens=tokens,
                n_bytes=sum(commit.size for commit in features.commits),
                created=read_record(features.folder).created[:16].replace("T", " "),
                written=written,
            )
        )
    return listed


def stale_rows(
    store: FeatureStore, spec: EncoderSpec, keys: np.ndarray, *, lacking: np.ndarray
) -> tuple[np.ndarray, str]:
    """The lacking rows that other versions of an encoder have, and what changed since the newest of them.

    Parameters
    ----------
    keys, lacking : np.ndarray
        Row keys `(N, 32)` uint8, and the lacking rows, `(N,)` bool.

    Returns
    -------
    tuple of np.ndarray and str
        `(N,)` bool, and the reason; empty if no row is stale.
    """
    stale, why = np.zeros(len(keys), dtype=bool), ""
    for other in store.encoders() if lacking.any() else ():
        same = (other.spec.architecture, other.spec.modality) == (spec.architecture, spec.modality)
        if same and other.spec.key != spec.key:
            try:
                found = lacking & ~other.lookup(keys).missing
            except StoreError:  # written by a newer mmfeat: irrelevant for this encoder
                continue
            why = why or (explain(other.spec, spec) if found.any() else "")
            stale |= found
    return stale, why
