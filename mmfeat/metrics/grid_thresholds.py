"""A metric at a cross-fitted threshold from a grid: fast enough to score every epoch of every head."""

from __future__ import annotations

import numpy as np

from mmfeat.common.labels import sigmoid
from mmfeat.metrics.crossfit import FOLDS
from mmfeat.metrics.thresholds import TUNED_FOR, UNFITTED, class_f1_at, nearest, passing, row_f1

GRID = sigmoid(np.linspace(-5.0, 5.0, 81))  # steps of 1/8 in logits; the middle is 0.5
_BLOCK = 2**22  # cells at a time


def crossfitted_value(metric: str, labels: np.ndarray, probs: np.ndarray, empty: str) -> float:
    """One model's F1 on labelled rows, where each fold's threshold is the best of :data:`GRID` on the other folds.

    Parameters
    ----------
    metric : str
        `samples-f1`, `micro-f1` or `macro-f1`.
    labels : np.ndarray
        `(n, K)` int8, -1 for unknown. The position of a row gives its fold: pass the rows in a fixed, random order, such
        as that of the numbers of their ids.
    probs : np.ndarray
        `(n, K)` float in [0, 1].
    empty : str
        Labels of a row without a probability above its threshold, see :func:`mmfeat.common.labels.decide`.
    """
    if metric not in TUNED_FOR:
        raise ValueError(f"{metric} does not depend on a threshold")
    kept = (labels >= 0).any(1)
    labels, probs = labels[kept], probs[kept]
    if not len(labels):
        return 0.0
    return _samples_f1(labels, probs, empty) if metric == "samples-f1" else _class_f1(metric, labels, probs, empty)


def _samples_f1(labels: np.ndarray, probs: np.ndarray, empty: str) -> float:
    step = max(1, _BLOCK // max(probs.shape[1], len(GRID)))
    blocks = [slice(start, start + step) for start in range(0, len(labels), step)]
    f1 = np.concatenate([_f1_by_row(labels[block], probs[block], empty) for block in blocks])  # (n, C)
    fold = np.arange(len(f1)) % FOLDS
    total, found = f1.sum(0), np.empty(len(f1))
    for one in range(FOLDS):
        at = _best(total - f1[fold == one].sum(0))
        found[fold == one] = f1[fold == one, at]
    return float(found.mean())


def _f1_by_row(labels: np.ndarray, probs: np.ndarray, empty: str) -> np.ndarray:
    """F1 of each row's label set at each threshold, `(n, C)`."""
    n, c = len(labels), len(GRID)
    passed = np.searchsorted(GRID.astype(probs.dtype), probs)  # how many thresholds a cell is above
    positive, known, at = labels == 1, labels >= 0, np.arange(n)[:, None] * (c + 1) + passed

    def counted(cells: np.ndarray) -> np.ndarray:
        return passing(np.bincount(at[cells], minlength=n * (c + 1)).reshape(n, c + 1))

    hits, predicted = counted(positive), counted(known)
    if empty == "most-probable":
        rows, top = np.arange(n), probs.argmax(1)
        none_above = np.arange(c) >= passed[rows, top][:, None]
        hits += none_above & positive[rows, top][:, None]
        predicted += none_above & known[rows, top][:, None]
    return row_f1(hits, predicted, positive.sum(1)[:, None])


def _class_f1(metric: str, labels: np.ndarray, probs: np.ndarray, empty: str) -> float:
    fold = np.arange(len(labels)) % FOLDS
    counts = np.stack([_class_counts(labels[fold == f], probs[fold == f], empty) for f in range(FOLDS)])  # (F, 2, K, C)
    positives = np.stack([(labels[fold == f] == 1).sum(0) for f in range(FOLDS)])  # (F, K)
    total, own = counts.sum(0), np.zeros(counts.shape[1:3], np.int64)
    for f in range(FOLDS):
        others = positives.sum(0) - positives[f]
        if others.any():
            values = class_f1_at(metric, *(total - counts[f]), n_positive=others)
        else:
            values = np.zeros(len(GRID))
        own += counts[f, :, :, _best(values)]
    if not positives.any():
        return 0.0
    return float(class_f1_at(metric, *own[:, :, None], n_positive=positives.sum(0))[0])


def _class_counts(labels: np.ndarray, probs: np.ndarray, empty: str) -> np.ndarray:
    """Hits and predicted positives of each class at each threshold, `(2, K, C)`."""
    n, k, c = *probs.shape, len(GRID)
    passed = np.searchsorted(GRID.astype(probs.dtype), probs)
    at = np.arange(k) * (c + 1) + passed
    found = []
    for cells in (labels == 1, labels >= 0):
        counts = passing(np.bincount(at[cells], minlength=k * (c + 1)).reshape(k, c + 1))
        if empty == "most-probable" and n:
            rows, top = np.arange(n), probs.argmax(1)
            alone = cells[rows, top]  # the top class is predicted from the threshold on that no class is above
            first = top[alone] * (c + 1) + passed[rows, top][alone]
            counts = counts + np.bincount(first, minlength=k * (c + 1)).reshape(k, c + 1).cumsum(1)[:, :-1]
        found.append(counts)
    return np.stack(found)


def _best(values: np.ndarray) -> int:
    """The position of the threshold nearest to 0.5, among those with the best value."""
    return int(np.searchsorted(GRID, nearest(GRID, values, UNFITTED)))
