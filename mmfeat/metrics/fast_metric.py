"""One metric's figure of many models at once, without the others: what chooses epochs and members of ensembles."""

from __future__ import annotations

import numpy as np

from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.metrics import row_losses, samples_f1_rows, scores


def metric_values(metric: str, labels: np.ndarray, logits: np.ndarray, rule: PredictConfig) -> np.ndarray:
    """What :func:`mmfeat.metrics.scores` gives for one metric, `(M,)` float64, without its other figures.

    Parameters
    ----------
    labels : np.ndarray
        `(n, K)` int8, some of them known.
    logits : np.ndarray
        `(M, n, K)` float32, finite.
    rule : PredictConfig
        How probabilities become labels, at 0.5 where that is tuned.
    """
    if metric == "loss":
        return np.array([row_losses(labels, one).sum() for one in logits]) / (labels >= 0).sum()
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
