"""One metric of many models at once: it selects epochs and members of ensembles."""

from __future__ import annotations

import numpy as np

from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.metrics import row_losses, samples_f1_rows, scores


def metric_values(metric: str, labels: np.ndarray, logits: np.ndarray, *, rule: PredictConfig) -> np.ndarray:
    """One metric of M models, `(M,)` float64, as :func:`mmfeat.metrics.scores` computes it.

    Parameters
    ----------
    labels : np.ndarray
        `(n, K)` int8, at least one of them known.
    logits : np.ndarray
        `(M, n, K)` float32, finite.
    rule : PredictConfig
        The decision rule's settings. A fitted threshold is taken as 0.5 here: epochs that are compared each at its own
        threshold turn out worse (benchmarks/README.md).
    """
    if metric == "loss":
        return np.array([row_losses(labels, one).sum() for one in logits]) / (labels >= 0).sum()
    if metric == "map":
        nothing = np.zeros(labels.shape, np.int8)
        return np.array([scores(labels, nothing, one).map for one in logits])
    values = np.empty(len(logits))
    known, positive = labels >= 0, labels == 1
    for m, one in enumerate(logits):
        predicted = decide(sigmoid(one), rule.untuned, rule.empty)
        if metric == "samples-f1":
            values[m] = samples_f1_rows(labels, predicted).mean()
            continue
        predicted_known = (predicted == 1) & known
        hits, total = (positive & predicted_known).sum(0), positive.sum(0) + predicted_known.sum(0)  # (K,)
        if metric == "micro-f1":
            values[m] = 2 * hits.sum() / max(total.sum(), 1)
        else:
            kept = positive.any(0)
            values[m] = (2 * hits[kept] / total[kept]).mean() if kept.any() else 0.0
    return values
