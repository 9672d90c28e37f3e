"""How many rows of a project each encoder has in the store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project
from mmfeat.store.cache_status import EncoderStatus, encoder_status

_NAMED = 2  # reasons that are given


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
