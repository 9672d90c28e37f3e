"""Ensembles: weighted means of logits of encoders and runs, the paper's FM1, FM2 and FM3 among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RECIPE_TEXTS = {
    "fm1": "mean of the two encoders' logits (P9, eq. 31)",
    "fm2": "mean of FM1's logits and the concat head's (P11)",
    "fm3": "mean of the cross-attention head's logits and the two encoders' (P13)",
}
RECIPE_HEADS = {"fm2": "concat", "fm3": "crossattn"}  # the run that a recipe takes in beside the encoders


def weighted_mean(
    logits: Sequence[np.ndarray], present: Sequence[np.ndarray], weights: Sequence[float], prior: np.ndarray
) -> np.ndarray:
    """Weighted mean over the members that a row has.

    Parameters
    ----------
    logits : sequence of (N, K) float32
        One for each member.
    present : sequence of (N,) bool
        Whether the member says anything of the row.
    prior : np.ndarray
        `(K,)` logits of a row that no member knows.

    Returns
    -------
    np.ndarray
        `(N, K)` float32. One member alone is returned as it is.
    """
    shares = np.stack([p * w for p, w in zip(present, weights, strict=True)]).astype(np.float32)  # (M, N)
    total = shares.sum(0)  # (N,)
    mean = np.zeros_like(logits[0], dtype=np.float32)
    for member, share in zip(logits, shares / np.where(total > 0, total, 1), strict=True):
        mean += np.where(share[:, None] > 0, member, 0) * share[:, None]
    mean[total == 0] = prior
    return mean
