"""What is cached for each encoder, and why the rest is not: how many rows are cached, missing, stale and unreadable, and why."""

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

_SHOWN = 3  # reasons of unreadable rows


@dataclass(frozen=True)
class EncoderStatus:
    """Counts of a manifest's rows for one encoder; cached, missing, stale, unreadable and absent add up to all of them.

    Attributes
    ----------
    cached : int
        Rows with an embedding.
    stale : int
        Rows whose features are there in an older form: of the sample, or of the encoder. `why` says what has changed.
    missing : int
        Rows that are there in no form.
    unreadable : int
        Rows recorded as undecodable.
    absent : int
        Rows without the modality: a blank caption, an image that is not there.
    lacks_logits, lacks_tokens : int
        Cached rows that have no logits of the output in use, or none of the tokens asked for.
    why : str
        Reasons, joined by semicolons.
    flat : tuple of int
        Cached rows whose image is of one colour, or nearly so.
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
    spec: EncoderSpec,
    keys: np.ndarray,
    present: np.ndarray,
    *,
    output_key: str | None = None,
    tokens: int = 0,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
    again: np.ndarray | None = None,
) -> EncoderStatus:
    """Count one encoder's rows by their keys `(N, 32)` uint8 and presence `(N,)` bool.

    Parameters
    ----------
    seen : tuple of np.ndarray, optional
        What the keys were before, `(N, 32)` uint8, and for which rows that is known, `(N,)` bool.
    again : np.ndarray, optional
        Rows that are encoded again, whatever the store has of them, `(N,)` bool.

    Raises
    ------
    StoreError
        The store cannot be read, or a newer mmfeat wrote the encoder's files.
    """
    features = store.encoder(spec)
    before = features.lookup(keys)
    redone = present & ~before.missing & (False if again is None else again)
    found = before.only(~redone)
    lacking = present & found.missing & ~redone
    changed = _changed_content(features, keys, lacking, seen)
    stale, why = stale_rows(store, spec, keys, lacking & ~changed)
    reasons = [why] if why else []
    if changed.any():
        reasons.append(f"{counted(int(changed.sum()), modality_table(spec.modality).sample)} changed")
    if n := int((redone & before.good).sum()):
        reasons.append(f"{counted(n, 'image')} decoded otherwise now")
    if n := int((redone & before.error).sum()):
        reasons.append(f"{counted(n, 'unreadable image')} to be tried again")
    cached = found.good & present
    lacks_tokens = 0
    if tokens:
        lacks_tokens = int((cached & features.lookup_tokens(tokens, keys).missing).sum())
        reasons += [f"{counted(lacks_tokens, 'row')} without tokens"] if lacks_tokens else []
    lacks_logits = _lacking_logits(features, found.part[cached], output_key)
    reasons += [f"{counted(lacks_logits, 'row')} without logits"] if lacks_logits else []
    errors = Counter(reason for row, reason in features.errors_of(keys).items() if present[row] and not redone[row])
    reasons += [f"{n:,} unreadable: {reason}" for reason, n in errors.most_common(_SHOWN)]
    return EncoderStatus(
        name,
        model,
        cached=int(cached.sum()),
        missing=int((lacking & ~stale & ~changed).sum()),
        stale=int((stale | changed | redone).sum()),
        unreadable=int((found.error & present).sum()),
        absent=int((~present).sum()),
        why="; ".join(reasons),
        lacks_logits=lacks_logits,
        lacks_tokens=lacks_tokens,
        flat=tuple(np.flatnonzero(cached & features.flat(found)).tolist()),
    )


def _changed_content(
    features: EncoderFeatures, keys: np.ndarray, lacking: np.ndarray, seen: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """Which of the lacking rows this encoder has as they were before, `(N,)` bool."""
    if seen is None or not lacking.any():
        return np.zeros(len(lacking), dtype=bool)
    before, known = seen
    return lacking & known & (before != keys).any(1) & features.lookup(before).good


def _lacking_logits(features: EncoderFeatures, part: np.ndarray, output_key: str | None) -> int:
    """How many of the rows in these parts, `(n,)`, have no logits of an output."""
    if output_key is None:
        return 0
    files = features.logits_files(output_key)
    numbers, counts = np.unique(part, return_counts=True)
    return int(sum(n for number, n in zip(numbers, counts, strict=True) if files[number] is None))


@dataclass(frozen=True)
class StoredEncoder:
    """What lies in a store of one encoder.

    Attributes
    ----------
    name : str
        The folder's name.
    rows : int
        Rows with an embedding or a recorded error.
    created, written : str
        When the folder was made, and when its newest part was committed.
    outputs, tokens : int
        How many outputs have logits, and how many kinds of tokens there are.
    """

    name: str
    spec: EncoderSpec
    rows: int
    parts: int
    outputs: int
    tokens: int
    n_bytes: int
    created: str
    written: str


def stored_encoders(store: FeatureStore) -> list[StoredEncoder]:
    """Every encoder of a store, the newest first.

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
        parts = features.series[EMBEDDINGS].current_files
        times = [path.stat().st_mtime for path in commit_paths(features.folder)]
        written = time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(times))) if times else ""
        listed.append(
            StoredEncoder(
                features.folder.name,
                features.spec,
                features.n_rows,
                len(parts),
                len(kinds) - tokens - (EMBEDDINGS in kinds),
                tokens,
                sum(commit.size for commit in features.commits),
                read_record(features.folder).created[:16].replace("T", " "),
                written,
            )
        )
    return listed


def stale_rows(store: FeatureStore, spec: EncoderSpec, keys: np.ndarray, lacking: np.ndarray) -> tuple[np.ndarray, str]:
    """Which of the lacking rows other forms of an encoder have, and what has changed since the newest of those.

    Parameters
    ----------
    keys, lacking : np.ndarray
        Row keys `(N, 32)` uint8, and the rows in question, `(N,)` bool.

    Returns
    -------
    tuple of np.ndarray and str
        `(N,)` bool, and the reason; empty where no row is stale.
    """
    stale, why = np.zeros(len(keys), dtype=bool), ""
    for other in store.encoders() if lacking.any() else ():
        same = (other.spec.architecture, other.spec.modality) == (spec.architecture, spec.modality)
        if same and other.spec.key != spec.key:
            try:
                found = lacking & ~other.lookup(keys).missing
            except StoreError:  # a newer mmfeat wrote it: it says nothing about this encoder
                continue
            why = why or (explain(other.spec, spec) if found.any() else "")
            stale |= found
    return stale, why
