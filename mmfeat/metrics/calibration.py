"""Calibration: temperature scaling (Guo et al., 2017) and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.metrics.scoring import row_losses

LOWEST, HIGHEST = 0.1, 10.0  # temperatures; the limits are reached only if all predictions are right, or none
BINS = 15
_BLOCK = 2**22  # cells counted together: bounds memory


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature T that minimises the binary cross-entropy of `logits / T` over known labels.

    The loss is convex in 1 / T, so the minimum is unique; T is searched from 0.1 to 10. T is 1 if no label is known or
    no other T is better. A temperature changes neither the order of logits nor the labels predicted at 0.5.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8; -1 (unknown) is ignored.
    logits : np.ndarray
        `(N, K)` float, finite.
    """
    from scipy.optimize import minimize_scalar  # its import takes half a second

    rows = (labels >= 0).any(1)
    if not rows.any():
        return 1.0
    labels, logits = labels[rows], logits[rows]

    def loss(log_t: float) -> float:
        return float(row_losses(labels, logits / np.asarray(np.exp(log_t), logits.dtype)).sum())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Reliability:
    """Known labels by their predicted probability, in bins of equal width from 0 to 1.

    Attributes
    ----------
    n : np.ndarray
        `(bins,)` float64: the number of labels.
    predicted, positive : np.ndarray
        `(bins,)` float64: the sum of their probabilities, and the number of positives among them.
    """

    n: np.ndarray
    predicted: np.ndarray
    positive: np.ndarray


def reliability(labels: np.ndarray, probs: np.ndarray, bins: int = BINS) -> Reliability:
    """Count known labels `(N, K)` in bins of their probabilities. Each known label counts once."""
    n, predicted, positive = np.zeros((3, bins))
    step = max(1, _BLOCK // max(1, labels.shape[1]))
    for start in range(0, len(labels), step):
        block = slice(start, start + step)
        known = labels[block] >= 0
        values = probs[block][known]
        at = np.minimum((values * bins).astype(np.int64), bins - 1)
        n += np.bincount(at, minlength=bins)
        predicted += np.bincount(at, values, bins)
        positive += np.bincount(at, labels[block][known] == 1, bins)
    return Reliability(n=n, predicted=predicted, positive=positive)


def expected_calibration_error(labels: np.ndarray, probs: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over known labels, with bins of equal width (Naeini et al., 2015).

    It is the mean distance between a probability and the share of positives among labels with about that probability.
    """
    found = reliability(labels, probs, bins)
    return float(np.abs(found.predicted - found.positive).sum() / max(found.n.sum(), 1))
