"""Multi-label losses that ignore unknown labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights of the classes in the loss (paper, section 3.1.2; P7).

    With n_i positives of class i and T positives in total, w_i is the mean of log(n_i)/log(T) and log(T)/log(n_i). Since
    n_i is at most T, the weight grows as a class gets rarer, from 1 for a class with all positives. The paper leaves two
    cases undefined. With one positive, log(1) = 0 is a divisor: n_i and T therefore count as at least 2, which keeps the
    weight finite and gives such a class the largest weight. Without a positive the logarithm is undefined, and the class
    has only negatives to learn: its weight is 1, the minimum.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8, or soft targets; -1 is ignored.

    Returns
    -------
    np.ndarray
        `(K,)` float32, finite, at least 1.
    """
    positives = np.maximum(labels, 0).sum(0, dtype=np.float64)
    share = np.log(np.maximum(positives, 2)) / np.log(max(positives.sum(), 2))
    return np.where(positives > 0, (share + 1 / share) / 2, 1.0).astype(np.float32)


def masked_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, kind: str = "bce") -> Tensor:
    """Mean loss over the known labels, weighted by class.

    The loss is divided by the sum of the weights, so that weighted and unweighted losses have the same scale.
    Half-precision logits are converted to float32, in which large sums stay finite.

    Parameters
    ----------
    logits : Tensor
        `(..., K)`.
    labels : Tensor
        `(..., K)`: 0, 1 or a probability between; -1 is unknown and ignored.
    weights : Tensor, optional
        `(K,)`, one for each class, or `(..., K)`, one for each label.
    kind : str
        `bce`, `focal` or `asymmetric`.

    Returns
    -------
    Tensor
        A scalar; 0, with a gradient of 0, where no label is known.
    """
    total, weight = summed_loss(logits, labels, weights, kind)
    return total / torch.where(weight > 0, weight, 1)


def summed_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, kind: str = "bce", *, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum of the weighted losses and sum of the weights, so that a batch can be processed in pieces; see :func:`masked_loss`.

    Parameters
    ----------
    smoothing : float
        Targets are moved towards 1/2 by this share (Szegedy et al., 2016).
    """
    known = labels >= 0
    dtype = torch.promote_types(logits.dtype, torch.float32)
    # Masked before the loss, not after: 0 * NaN is NaN, in the loss and in the gradient.
    target, masked = torch.where(known, labels, 0).to(dtype), torch.where(known, logits, 0).to(dtype)
    target = target * (1 - smoothing) + smoothing / 2 if smoothing else target
    counts = known_weights(labels, weights, dtype)
    return (LOSSES[kind](masked, target) * counts).sum(), counts.sum()


def known_weights(labels: Tensor, weights: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weight of each label in a loss, `(..., K)`: the weight of its class; 0 for an unknown label."""
    known = labels >= 0
    return known.to(dtype) if weights is None else known * weights.to(dtype)


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al., 2017): cross-entropy times (1 - p)^2, where p is the probability of the true label."""
    probs = torch.sigmoid(logits)
    positive = (1 - probs) ** FOCAL_GAMMA * functional.logsigmoid(logits)
    negative = probs**FOCAL_GAMMA * functional.logsigmoid(-logits)
    return -(target * positive + (1 - target) * negative)


def _asymmetric(logits: Tensor, target: Tensor) -> Tensor:
    """Asymmetric loss (Ridnik et al., 2021): easy negatives count less; negatives below a margin count 0."""
    probs = (torch.sigmoid(logits) - ASYMMETRIC_MARGIN).clamp(min=0)
    positive = functional.logsigmoid(logits)
    negative = probs**ASYMMETRIC_GAMMA * torch.log1p(-probs)
    return -(target * positive + (1 - target) * negative)


FOCAL_GAMMA = 2.0  # as in Lin et al.
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05  # as in Ridnik et al. for multi-label data; gamma of positives is 0
LOSSES = {"bce": _bce, "focal": _focal, "asymmetric": _asymmetric}
