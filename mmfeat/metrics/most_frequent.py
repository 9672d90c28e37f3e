"""The most-frequent baseline: it predicts the most frequent class of the training labels for every row."""

from __future__ import annotations

import numpy as np

from mmfeat.common.labels import positive_cells

_SURE = 10.0  # a probability of 0.99995 or 0.00005


def most_frequent_baseline(train_labels: np.ndarray, n_rows: int) -> np.ndarray:
    """Logits `(n_rows, K)` float32 that predict only the most frequent class of the training labels.

    Of equally frequent classes, the first is taken. The loss of these logits is meaningless; all other metrics are valid.
    """
    logits = np.full((n_rows, train_labels.shape[1]), -_SURE, dtype=np.float32)
    positives = np.bincount(positive_cells(train_labels)[1], minlength=train_labels.shape[1])
    logits[:, positives.argmax()] = _SURE
    return logits
