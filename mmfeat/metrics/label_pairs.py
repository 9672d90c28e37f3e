"""Pairs of classes: which labels occur together, and which is predicted where another one is missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelPairs:
    """Pairs of classes with their counts, the most frequent first.

    Attributes
    ----------
    first, second : np.ndarray
        `(P,)` int64: class numbers.
    n : np.ndarray
        `(P,)` int64: rows with the pair.
    """

    first: np.ndarray
    second: np.ndarray
    n: np.ndarray

    def top(self, most: int) -> LabelPairs:
        """The `most` most frequent pairs."""
        return LabelPairs(first=self.first[:most], second=self.second[:most], n=self.n[:most])

    def leading_classes(self, most: int) -> np.ndarray:
        """The classes of the most frequent pairs, at most `most`, in the order of the class numbers."""
        names = dict.fromkeys(np.stack([self.first, self.second], axis=1).ravel().tolist())
        return np.array(sorted(list(names)[:most]), dtype=np.int64)

    def matrix(self, classes: np.ndarray) -> np.ndarray:
        """Counts `(k, k)` int64 among some classes, by first and second."""
        at = np.full(int(max([*self.first, *self.second, *classes], default=0)) + 1, -1)
        at[classes] = np.arange(len(classes))
        found = np.zeros((len(classes), len(classes)), np.int64)
        inside = (at[self.first] >= 0) & (at[self.second] >= 0)
        found[at[self.first[inside]], at[self.second[inside]]] = self.n[inside]
        return found


def together(labels: np.ndarray) -> LabelPairs:
    """Pairs of classes that are positive in the same rows `(N, K)`; each pair once, the lower number first."""
    positive = _sparse(labels == 1)
    counts = (positive.T @ positive).tocoo()
    kept = counts.row < counts.col
    return _ordered(counts.row[kept], counts.col[kept], counts.data[kept])


def confusions(labels: np.ndarray, predicted: np.ndarray) -> LabelPairs:
    """Pairs (missed class, wrongly predicted class) of the same rows; unknown labels are neither.

    Parameters
    ----------
    labels, predicted : np.ndarray
        `(N, K)` int8.
    """
    missed, wrong = (labels == 1) & (predicted != 1), (labels == 0) & (predicted == 1)
    counts = (_sparse(missed).T @ _sparse(wrong)).tocoo()
    return _ordered(counts.row, counts.col, counts.data)


def _sparse(cells: np.ndarray) -> Any:
    from scipy.sparse import csr_array  # its import takes a while

    return csr_array(cells, dtype=np.int64)


def _ordered(first: np.ndarray, second: np.ndarray, n: np.ndarray) -> LabelPairs:
    order = np.lexsort((second, first, -n))
    order = order[n[order] > 0]
    return LabelPairs(
        first=first[order].astype(np.int64), second=second[order].astype(np.int64), n=n[order].astype(np.int64)
    )
