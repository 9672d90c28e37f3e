"""What the other labels of a row tell about one: a row with a car more often has a traffic light.

The label of a class is predicted from the given labels of all other classes by linear regression, in closed form: the
coefficients are in the inverse of the covariance of the labels.
"""

from __future__ import annotations

import numpy as np

MOST_CLASSES = 2000  # the cost is cubic
_RIDGE = 10.0  # strength of the regularisation: comparable to some rows
_TINY = 1e-3  # no prediction is more certain than this


def logits_by_other_labels(labels: np.ndarray) -> np.ndarray | None:
    """Logits `(N, K)` float32 of each label by the other labels of its row; None for one class or too many.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1, 0 or -1. An unknown label counts as the mean of its class.
    """
    n, k = labels.shape
    if not 1 < k <= MOST_CLASSES:
        return None
    known = labels >= 0
    mean = (np.where(known, labels, 0).sum(0) + 0.5) / (known.sum(0) + 1)
    centred = np.where(known, labels - mean, 0)
    covariance = (centred.T @ centred + _RIDGE * np.diag(mean * (1 - mean))) / (n + _RIDGE)
    inverse = np.linalg.inv(covariance)
    own = inverse.diagonal()
    found = np.clip(mean - (centred @ inverse - centred * own) / own, _TINY, 1 - _TINY)
    return np.log(found / (1 - found)).astype(np.float32)
