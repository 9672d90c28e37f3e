"""Losses over labels of which some are unknown."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights of the classes in the loss (paper, section 3.1.2; P7).

    With n_i positives of class i and T positives in all, w_i is the mean of log(n_i)/log(T) and log(T)/log(n_i). As n_i
    is at most T, it grows as classes get rarer, from 1 for a class that holds every positive. Two ends are not defined in
    the paper. One positive gives log(1) = 0 and a division by zero, so n_i and T count as at least 2: the weight stays
    finite, and no class that has a positive weighs more. A class without a positive has no logarithm and nothing to
    learn but negatives: its weight is 1, the minimum.

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

    The weights are divided out, so a weighted and an unweighted loss are on one scale. Half-precision logits are raised to
    float32, in which large sums are finite.

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
    """Weight of each label in a loss, `(..., K)`: that of its class, 0 where it is unknown."""
    known = labels >= 0
    return known.to(dtype) if weights is None else known * weights.to(dtype)


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Labels that are predicted well count less (Lin et al., 2017): binary cross-entropy times (1 - p)^2 of the true label."""
    probs = torch.sigmoid(logits)
    yes = (1 - probs) ** FOCAL_GAMMA * functional.logsigmoid(logits)
    no = probs**FOCAL_GAMMA * functional.logsigmoid(-logits)
    return -(target * yes + (1 - target) * no)


def _asymmetric(logits: Tensor, target: Tensor) -> Tensor:
    """Easy negatives count less, and those below a margin nothing (Ridnik et al., 2021)."""
    probs = (torch.sigmoid(logits) - ASYMMETRIC_MARGIN).clamp(min=0)
    yes = functional.logsigmoid(logits)
    no = probs**ASYMMETRIC_GAMMA * torch.log1p(-probs)
    return -(target * yes + (1 - target) * no)


FOCAL_GAMMA = 2.0  # the paper's
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05  # the paper's, for several labels; of the positives gamma is 0
LOSSES = {"bce": _bce, "focal": _focal, "asymmetric": _asymmetric}
