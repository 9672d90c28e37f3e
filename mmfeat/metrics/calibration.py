"""Temperature: one number that probabilities are made honest by (Guo et al., 2017), and how honest they are."""

from __future__ import annotations

import numpy as np

from mmfeat.metrics.scores import row_losses

LOWEST, HIGHEST = 0.1, 10.0  # beyond these the rows say nothing: all on their right side, or none
BINS = 15


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
    known = labels >= 0
    values = probs[known]
    at = np.minimum((values * bins).astype(np.int64), bins - 1)
    said, true = (np.bincount(at, weights, bins) for weights in (values, (labels[known] == 1).astype(np.float64)))
    return float(np.abs(said - true).sum() / max(len(values), 1))
