"""Figures, their spread, and baselines; numpy only."""

from mmfeat.metrics.baselines import commonest_label
from mmfeat.metrics.bootstrap import bootstrap_mean, paired_difference
from mmfeat.metrics.scores import Scores, better, samples_f1_rows, scores

__all__ = [
    "Scores",
    "better",
    "bootstrap_mean",
    "commonest_label",
    "paired_difference",
    "samples_f1_rows",
    "scores",
]
