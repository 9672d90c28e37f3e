"""The figure that chooses an epoch, for many heads at once."""

from __future__ import annotations

import numpy as np
import torch

from mmfeat.config import PredictConfig
from mmfeat.labels import decide, sigmoid
from mmfeat.losses import masked_loss
from mmfeat.metrics import samples_f1_rows, scores


def metric_values(metric: str, labels: np.ndarray, logits: np.ndarray, rule: PredictConfig) -> np.ndarray:
    """What :func:`mmfeat.metrics.scores` gives for one metric, `(M,)` float64, without its other figures.

    Parameters
    ----------
    labels : np.ndarray
        `(n, K)` int8, each row with a known label.
    logits : np.ndarray
        `(M, n, K)` float32, finite.
    rule : PredictConfig
        How probabilities become labels, at 0.5 where that is tuned.
    """
    if metric == "loss":
        target = torch.as_tensor(labels)
        return np.array([float(masked_loss(torch.as_tensor(one).double(), target)) for one in logits])
    if metric == "map":
        nothing = np.zeros(labels.shape, np.int8)
        return np.array([scores(labels, nothing, one).map for one in logits])
    values = np.empty(len(logits))
    known, yes = labels >= 0, labels == 1
    for m, one in enumerate(logits):
        decided = decide(sigmoid(one), rule.untuned, rule.empty)
        if metric == "samples-f1":
            values[m] = samples_f1_rows(labels, decided).mean()
            continue
        said = (decided == 1) & known
        hits, total = (yes & said).sum(0), yes.sum(0) + said.sum(0)  # (K,)
        if metric == "micro-f1":
            values[m] = 2 * hits.sum() / max(total.sum(), 1)
        else:
            kept = yes.any(0)
            values[m] = (2 * hits[kept] / total[kept]).mean() if kept.any() else 0.0
    return values
