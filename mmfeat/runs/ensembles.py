"""Ensembles: one formula for weighted logits, of which the paper's FM1, FM2 and FM3 are special cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RECIPE_TEXTS = {
    "fm1": "mean of the two encoders' logits (the paper's FM1)",
    "fm2": "mean of the logits of FM1 and of the concat head (the paper's FM2)",
    "fm3": "mean of the logits of both encoders and of the cross-attention head (the paper's FM3)",
}
RECIPE_HEADS = {"fm2": "concat", "fm3": "crossattn"}  # the head that a recipe combines with the encoders

Weight = float | Sequence[float]  # a member's weight: one for all classes, or one per class

_TINY = 1e-9  # replaces a weight of 0, so that the member still predicts rows that no other member can; else negligible


def shares_and_scale(weights: Sequence[Weight]) -> tuple[np.ndarray, np.ndarray]:
    """Split weights into the members' shares of a mean, and the factor of that mean.

    Parameters
    ----------
    weights : sequence of float or of sequences of float
        Not negative; by member, or by member and class.

    Returns
    -------
    tuple of np.ndarray
        `(M, 1)` or `(M, K)` float32, all positive; and their sums `(1,)` or `(K,)` float32: 1 for a mean.
    """
    wide = [np.atleast_1d(np.asarray(weight, dtype=np.float64)) for weight in weights]
    stacked = np.stack(np.broadcast_arrays(*wide))
    return np.maximum(stacked, _TINY).astype(np.float32), stacked.sum(0).astype(np.float32)


def combined(
    logits: Sequence[np.ndarray],
    present: Sequence[np.ndarray],
    weights: Sequence[Weight],
    prior: np.ndarray,
    *,
    bias: Sequence[float] | None = None,
) -> np.ndarray:
    """The logits of an ensemble: `b_k + sum_m w_mk z_mk`, where present members take over the weights of missing ones.

    A member is missing for a row without the member's modalities. It is replaced by the weighted mean of the present members,
    or by their plain mean if all their weights are 0. :class:`mmfeat.runs.composition.Composition` does the same in torch.

    Parameters
    ----------
    logits : sequence of (N, K) float32
        One for each member.
    present : sequence of (N,) bool
        Whether the member knows the row: it has one of the member's modalities.
    weights : sequence of float or of (K,)
        Not negative; their sum is 1 for a mean.
    prior : np.ndarray
        `(K,)` logits for rows without a modality of any member.
    bias : (K,), optional
        By default 0.

    Returns
    -------
    np.ndarray
        `(N, K)` float32; for a single member, its own logits.
    """
    shares, scale = shares_and_scale(weights)
    total = sum(mask[:, None] * share for mask, share in zip(present, shares, strict=True))  # (N, 1) or (N, K)
    total = np.where(total > 0, total, np.float32(1))
    mean = np.zeros_like(logits[0], dtype=np.float32)
    for member, mask, share in zip(logits, present, shares, strict=True):
        mean += np.where(mask[:, None], member, 0) * (share / total)
    mean = mean * scale + np.float32(0 if bias is None else bias)
    return np.where(np.any(present, axis=0)[:, None], mean, prior).astype(np.float32)
