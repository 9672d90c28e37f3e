"""Label errors: how suspicious each known label is, and how many labels of each class are wrong.

The number of wrong labels is estimated by confident learning (Northcutt, Jiang, Chuang, 2021), one class against the rest;
unknown labels are left out. The predictions must be out of fold: a model knows the labels that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CELLS = 1 << 23  # labels at a time: bounds memory
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class ErrorCounts:
    """Labels of each class and how many of them are wrong, `(K,)` int64 each.

    Attributes
    ----------
    positives, negatives : np.ndarray
        Given positives and negatives with a prediction.
    wrong_positives, wrong_negatives : np.ndarray
        Estimates of how many of them are wrong.
    """

    positives: np.ndarray
    negatives: np.ndarray
    wrong_positives: np.ndarray
    wrong_negatives: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Estimates of wrong labels, `(K,)`."""
        return self.wrong_positives + self.wrong_negatives


def self_confidence(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The probability of each given label, `(N, K)` float in the type of `probs`; NaN for an unknown label.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1, 0 or -1.
    probs : np.ndarray
        `(N, K)` probabilities of the classes, out of fold.
    """
    return np.where(labels == 1, probs, np.where(labels == 0, 1 - probs, np.nan)).astype(probs.dtype)


def confident_errors(labels: np.ndarray, probs: np.ndarray) -> ErrorCounts:
    """Estimate by confident learning how many labels of each class are wrong.

    A row counts as truly positive if its probability is at least the mean probability of the given positives, as truly
    negative if that of the opposite is at least the mean of the given negatives; if both hold, by the larger one. The
    resulting 2 x 2 counts are scaled to the numbers of given positives and negatives.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1, 0 or -1.
    probs : np.ndarray
        `(N, K)` probabilities of the classes, out of fold.
    """
    counts = np.zeros((4, labels.shape[1]), np.int64)
    for block in class_blocks(labels.shape):
        counts[:, block] = _counted(labels[:, block], probs[:, block])
    return ErrorCounts(positives=counts[0], negatives=counts[1], wrong_positives=counts[2], wrong_negatives=counts[3])


def class_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the K columns of an array `(N, K)`, so that blocks of columns fit into memory."""
    step = max(1, _CELLS // max(1, shape[0]))
    return (slice(start, start + step) for start in range(0, shape[1], step))


def _counted(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Given positives and negatives, and estimates of the wrong ones among them, `(4, K)` int64."""
    probs = probs.astype(np.float64)
    positive, negative = labels == 1, labels == 0
    n_positive, n_negative = positive.sum(0), negative.sum(0)
    least_positive = _mean(probs, positive, n_positive)
    least_negative = _mean(1 - probs, negative, n_negative)
    may_be_positive = probs >= least_positive - _TOLERANCE
    may_be_negative = 1 - probs >= least_negative - _TOLERANCE
    truly_positive = may_be_positive & (~may_be_negative | (probs > 0.5))
    truly_negative = may_be_negative & ~truly_positive
    wrong_positive = _scaled((positive & truly_negative).sum(0), (positive & truly_positive).sum(0), n_positive)
    wrong_negative = _scaled((negative & truly_positive).sum(0), (negative & truly_negative).sum(0), n_negative)
    return np.stack([n_positive, n_negative, wrong_positive, wrong_negative])


def _mean(values: np.ndarray, where: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Means over some rows, `(K,)`; infinite without any, so that no row reaches it."""
    return np.where(n > 0, np.where(where, values, 0).sum(0) / np.maximum(n, 1), np.inf)


def _scaled(wrong: np.ndarray, right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Counts of wrong ones `(K,)`, scaled to all n; at least one counts as right."""
    return np.rint(wrong / (wrong + np.maximum(right, 1)) * n).astype(np.int64)
