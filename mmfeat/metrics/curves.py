"""Precision-recall curves; numpy only."""

from __future__ import annotations

import numpy as np

POINTS = 120  # of a curve


def precision_recall(labels: np.ndarray, scores: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at thresholds from the highest score down, as scikit-learn defines them.

    A long curve is thinned evenly by recall, so that its ends stay.

    Parameters
    ----------
    labels : np.ndarray
        Any shape, int8; -1 (unknown) is ignored.
    scores : np.ndarray
        The same shape, float: logits or probabilities.

    Returns
    -------
    recall, precision : np.ndarray
        `(m,)` float64 each, recall ascending; empty without a positive.
    """
    known = labels >= 0
    positive, values = labels[known] == 1, scores[known]
    total = int(positive.sum())
    if not total:
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-values, kind="stable")
    values = values[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # equal scores are one threshold
    hits = positive[order].cumsum()[ends]
    ends, hits = ends[hits > 0], hits[hits > 0]
    first = np.append(True, np.diff(hits) > 0)  # further negatives at the same recall only lower the precision
    recall, precision = hits[first] / total, hits[first] / (ends[first] + 1)
    kept = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1, points)).clip(max=len(recall) - 1))
    return recall[kept], precision[kept]
