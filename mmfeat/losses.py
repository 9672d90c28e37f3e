"""Losses over labels that may be known only in part."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights of the classes in the loss (paper, section 3.1.2; P7).

    With n_i positives of class i and T positives in all, w_i is the mean of log(n_i)/log(T) and log(T)/log(n_i): rare
    and common classes weigh more than those between. Two ends are not defined in the paper. One positive gives
    log(1) = 0 and a division by zero, so n_i and T count as at least 2, which keeps the weight finite and largest for the
    rarest classes. A class without a positive has no logarithm and nothing to learn but 'no': its weight is 1.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8; -1 does not count.

    Returns
    -------
    np.ndarray
        `(K,)` float32, finite, at least 1.
    """
    positives = (labels == 1).sum(0)
    share = np.log(np.maximum(positives, 2)) / np.log(max(int(positives.sum()), 2))
    return np.where(positives > 0, (share + 1 / share) / 2, 1.0).astype(np.float32)


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with logits, meaned over the labels that are known.

    Parameters
    ----------
    logits : Tensor
        `(..., K)`.
    labels : Tensor
        `(..., K)`: 0, 1 or a probability between; -1 is not known and counts for nothing.
    weights : Tensor, optional
        `(K,)`, one for each class.

    Returns
    -------
    Tensor
        A scalar; 0, with a gradient of 0, where no label is known.
    """
    known = labels >= 0
    target = torch.where(known, labels, 0).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, target, weight=weights, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
