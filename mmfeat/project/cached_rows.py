"""How many rows of a project each encoder has in the store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.data.seen import load_seen
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project
from mmfeat.store.cache_status import EncoderStatus, encoder_status

_NAMED = 2  # reasons that are given


def remembered_cached_rows(project: Project, name: str) -> int | None:
    """Rows with an embedding of an encoder, as of the last extraction. No encoder is built, and no image or caption read.

    None if that is not known: the encoder has changed or the project was moved since, or the store cannot be read.
    """
    kind = kind_of(project.config.encoder[name])
    try:
        identity = project.known_identity(name)
        if identity is None:
            return None
        if kind.remembered:
            keys, known = load_seen(project.samples.seen(kind.modality), project.manifest.ids)
        else:
            row_keys = project.keys_of(identity)
            keys, known = row_keys.keys, row_keys.present
        return int(project.store.encoder(identity.spec).lookup(keys[known]).good.sum())
    except MmfeatError:
        return None


def cached_rows(
    project: Project,
    identity: Identity,
    *,
    again: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
) -> EncoderStatus:
    """Count one encoder's rows. Samples that were refused count as unreadable, not as a missing modality.

    Parameters
    ----------
    again : np.ndarray
        Rows that are encoded again in any case, `(N,)` bool.
    seen : tuple of np.ndarray, optional
        Earlier row keys `(N, 32)` uint8, and for which rows they are known, `(N,)` bool.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    keys = project.keys_of(identity)
    found = encoder_status(
        project.store,
        identity.name,
        identity.model,
        spec=identity.spec,
        keys=keys.keys,
        present=keys.present,
        output_key=identity.output_key,
        tokens=project.config.encoder[identity.name].tokens,
        seen=seen,
        again=again,
    )
    reasons = "; ".join(dict.fromkeys(list(keys.refused.values())[:_NAMED]))
    why = "; ".join(filter(None, [found.why, reasons]))
    refused = len(keys.refused)
    return replace(found, unreadable=found.unreadable + refused, absent=found.absent - refused, why=why)
