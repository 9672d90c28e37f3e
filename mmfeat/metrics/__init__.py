"""Multi-label metrics, confidence intervals, and the fit of thresholds and a temperature; without torch."""

from mmfeat.metrics.bootstrap import (
    Outcome,
    bootstrap_mean,
    bootstrap_metrics,
    paired_bootstrap,
    paired_difference,
    subset_difference,
)
from mmfeat.metrics.calibration import expected_calibration_error, fit_temperature
from mmfeat.metrics.crossfit import crossfit_folds, crossfitted
from mmfeat.metrics.most_frequent import most_frequent_baseline
from mmfeat.metrics.scoring import Scores, better, row_losses, samples_f1_rows, scores
from mmfeat.metrics.thresholds import crossfitted_thresholds, fit_thresholds

__all__ = [
    "Outcome",
    "Scores",
    "better",
    "bootstrap_mean",
    "bootstrap_metrics",
    "crossfit_folds",
    "crossfitted",
    "crossfitted_thresholds",
    "expected_calibration_error",
    "fit_temperature",
    "fit_thresholds",
    "most_frequent_baseline",
    "paired_bootstrap",
    "paired_difference",
    "row_losses",
    "samples_f1_rows",
    "scores",
    "subset_difference",
]
