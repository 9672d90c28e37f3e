"""Temperature: one number that probabilities are made honest by (Guo et al., 2017), and how honest they are."""

from __future__ import annotations

import numpy as np

from mmfeat.metrics.scores import row_losses

LOWEST, HIGHEST = 0.1, 10.0  # beyond these the rows say nothing: all on their right side, or none
BINS = 15
_BLOCK = 2**22  # cells counted together, so that memory stays bounded


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The T that `logits / T` have the least binary cross-entropy with, over known labels.

    The loss is convex in 1 / T, so that there is one such T; it is sought from 0.1 to 10. It is 1 where no label is
    known and where no T is better. The order of logits, and decisions at 0.5, are those without it.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8; -1 counts for nothing.
    logits : np.ndarray
        `(N, K)` float, finite.
    """
    from scipy.optimize import minimize_scalar  # takes half a second, which `runs` need not wait for

    rows = (labels >= 0).any(1)
    if not rows.any():
        return 1.0
    labels, logits = labels[rows], logits[rows]

    def loss(log_t: float) -> float:
        return float(row_losses(labels, logits / np.asarray(np.exp(log_t), logits.dtype)).sum())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def expected_calibration_error(labels: np.ndarray, probs: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of probabilities from the share of yes among labels of about that probability, over known labels.

    The bins are of equal width (Naeini et al., 2015); every cell of the table counts as one.
    """
    predicted, true, n = np.zeros(bins), np.zeros(bins), 0
    step = max(1, _BLOCK // max(1, labels.shape[1]))
    for start in range(0, len(labels), step):
        block = slice(start, start + step)
        known = labels[block] >= 0
        values = probs[block][known]
        at = np.minimum((values * bins).astype(np.int64), bins - 1)
        predicted += np.bincount(at, values, bins)
        true += np.bincount(at, labels[block][known] == 1, bins)
        n += len(values)
    return float(np.abs(predicted - true).sum() / max(n, 1))
