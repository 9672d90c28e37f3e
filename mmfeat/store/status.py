"""For each encoder how many rows are cached, missing, stale and unreadable, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.store.keys import EncoderSpec, explain
from mmfeat.store.store import FeatureStore


@dataclass(frozen=True)
class EncoderStatus:
    """Counts of a manifest's rows for one encoder.

    Attributes
    ----------
    cached : int
        Rows with an embedding.
    stale : int
        Rows that only an older form of the same encoder has; `why` says what has changed since.
    missing : int
        Rows that no form of it has.
    unreadable : int
        Rows recorded as undecodable.
    absent : int
        Rows without the modality: a blank caption, an image that is not there.
    """

    name: str
    model: str
    cached: int
    missing: int
    stale: int
    unreadable: int
    absent: int
    why: str


def encoder_status(
    store: FeatureStore, name: str, model: str, spec: EncoderSpec, keys: np.ndarray, present: np.ndarray
) -> EncoderStatus:
    """Count one encoder's rows by their keys `(N, 32)` and presence `(N,)`."""
    found = store.encoder(spec).lookup(keys)
    lacking = present & (found.part < 0)
    stale, why = np.zeros(len(keys), dtype=bool), ""
    if lacking.any():
        stale, why = stale_rows(store, spec, keys)
        stale &= lacking
    return EncoderStatus(
        name, model,
        cached=int((found.good & present).sum()),
        missing=int((lacking & ~stale).sum()),
        stale=int(stale.sum()),
        unreadable=int((found.error & present).sum()),
        absent=int((~present).sum()),
        why=why if stale.any() else "",
    )  # fmt: skip


def stale_rows(store: FeatureStore, spec: EncoderSpec, keys: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows that other forms of an encoder have, `(N,)` bool, and why those are not its own now."""
    best, why = np.zeros(len(keys), dtype=bool), ""
    for other in store.encoders():
        same = other.spec.architecture == spec.architecture and other.spec.modality == spec.modality
        if same and other.spec.key != spec.key:
            found = other.lookup(keys).part >= 0
            if found.sum() > best.sum():
                best, why = found, explain(other.spec, spec)
    return best, why
