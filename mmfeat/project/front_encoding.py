"""Encodes rows whose front is cached by the tail alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.config.encoder_tables import MIXED
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import Extraction, extract_encoder, missing_rows

if TYPE_CHECKING:
    from mmfeat.project.project import Project


def serves_extraction(project: Project, name: str) -> bool:
    """Whether embeddings may come from cached layers: activations in float16 are exact enough for the class `mixed` only."""
    table = project.config.encoder[name]
    return project.config.store.dtype == "float32" or table.precision == MIXED


def encode_from_front(
    project: Project,
    identity: Identity,
    present: np.ndarray,
    *,
    shard: tuple[int, int] | None = None,
    encoder: Any = None,
    trained: int = 0,
) -> Extraction | None:
    """Encode those rows that the store lacks and whose front it has; None if there are none.

    Parameters
    ----------
    present : np.ndarray
        The requested rows, `(N,)` bool.
    trained : int
        The stages after the front; by default those that the encoder's checkpoint trained.
    """
    trained = trained or _trained(project, identity)
    if not trained or not serves_extraction(project, identity.name):
        return None
    keys, features = project.keys_of(identity).keys, project.store.encoder(identity.spec)
    tokens = project.config.encoder[identity.name].tokens
    todo = missing_rows(features, keys, present, tokens=tokens)[0]
    if not len(todo):
        return None
    from mmfeat.project.fronts import CachedFront

    encoder = project.built(identity) if encoder is None else encoder
    front = CachedFront(project, identity.name, encoder, trained)
    stored = front.reader(drawn=False)
    if not stored.good[todo].any():
        return None
    return extract_encoder(
        features,
        lambda rows: front.tail_session(tokens),
        keys,
        present=present & stored.good,
        read=lambda row: stored.load(row, None),
        name=f"{identity.name}, from cached layers",
        tokens=tokens,
        shard=shard,
    )


def _trained(project: Project, identity: Identity) -> int:
    """How many stages the checkpoint of an encoder trained after a cached front; 0 for others."""
    checkpoint = project.checkpoint(identity)
    return checkpoint.front["trained"] if checkpoint is not None and checkpoint.front["keys"] else 0
