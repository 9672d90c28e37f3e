"""For each encoder how many rows are cached, missing, stale and unreadable, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.errors import StoreError
from mmfeat.store.keys import EncoderSpec, explain
from mmfeat.store.store import FeatureStore


@dataclass(frozen=True)
class EncoderStatus:
    """Counts of a manifest's rows for one encoder; cached, missing, stale, unreadable and absent add up to all of them.

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
    """Count one encoder's rows by their keys `(N, 32)` uint8 and presence `(N,)` bool.

    Raises
    ------
    StoreError
        The store cannot be read, or a newer mmfeat wrote the encoder's files.
    """
    found = store.encoder(spec).lookup(keys)
    lacking = present & found.missing
    stale, why = stale_rows(store, spec, keys, lacking)
    return EncoderStatus(
        name, model,
        cached=int((found.good & present).sum()),
        missing=int((lacking & ~stale).sum()),
        stale=int(stale.sum()),
        unreadable=int((found.error & present).sum()),
        absent=int((~present).sum()),
        why=why,
    )  # fmt: skip


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
