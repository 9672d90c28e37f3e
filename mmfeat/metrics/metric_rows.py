"""The metrics of one model with their spread: as recorded in a run, and as a row of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.config.schema import PredictConfig
from mmfeat.metrics import (
    Outcome,
    Scores,
    better,
    bootstrap_mean,
    expected_calibration_error,
    row_losses,
    samples_f1_rows,
    scores,
)
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.fast_metric import metric_values

_SHOWN = ("samples_f1", "micro_f1", "macro_f1", "map", "loss")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores and the 95 % bootstrap interval of samples-F1 over rows.

    Attributes
    ----------
    ece : float
        Expected calibration error of the probabilities, over all known labels.
    rows_f1 : np.ndarray
        F1 of each row's label set, `(n,)`; for paired comparisons.
    """

    scores: Scores
    low: float
    high: float
    rows_f1: np.ndarray
    ece: float

    @property
    def half_width(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.scores.as_dict(), "samples_f1_interval": [self.low, self.high], "ece": self.ece}


def metrics_of(labels: np.ndarray, logits: np.ndarray, decision: DecisionRule) -> Metrics:
    """Metrics of logits `(n, K)` and of their predicted labels, against labels `(n, K)` int8.

    Loss and calibration error are those of the calibrated probabilities. Average precision is computed from the logits:
    a temperature does not change their order within a class.
    """
    probs = decision.probs(logits)
    predicted = decision.labels(probs)
    found, calibrated = scores(labels, predicted, logits), decision.calibrated(logits)
    if calibrated is not logits:
        kept = (labels >= 0).any(1)
        loss = float(row_losses(labels[kept], calibrated[kept]).sum() / (labels >= 0).sum())
        found = dataclasses.replace(found, loss=loss)
    rows_f1 = samples_f1_rows(labels, predicted)
    low, high = bootstrap_mean(rows_f1)
    ece = expected_calibration_error(labels, probs)
    return Metrics(scores=found, low=low, high=high, rows_f1=rows_f1, ece=ece)


def outcome_of(logits: np.ndarray, decision: DecisionRule) -> Outcome:
    """Logits `(n, K)` and their predicted labels, for the paired bootstrap."""
    return Outcome(decision.labels(decision.probs(logits)), logits, decision.calibrated(logits))


def score_by(metric: str, rule: PredictConfig) -> Callable[[np.ndarray, np.ndarray], float]:
    """The function that a selection maximises: from labels and logits `(n, K)` to the metric, negated for the loss."""
    sign = 1.0 if better(metric, 1.0, 0.0) else -1.0

    def score(labels: np.ndarray, logits: np.ndarray) -> float:
        return sign * float(metric_values(metric, labels, logits[None], rule=rule)[0])

    return score


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One row of a table of metrics.

    Attributes
    ----------
    spread : float
        Half the 95 % bootstrap interval of samples-F1 over rows or, for a row over seeds, their standard deviation.
    n_left_out : int
        Classes without a positive among the rows; macro-F1 and mAP leave them out.
    seconds : float or None
        Training time.
    """

    label: str
    samples_f1: float
    spread: float
    micro_f1: float
    macro_f1: float
    map: float
    loss: float
    n_left_out: int
    seconds: float | None = None
    note: str = ""

    @classmethod
    def of(cls, label: str, metrics: Metrics, seconds: float | None = None, *, note: str = "") -> MetricRow:
        """The row of one model's metrics."""
        return cls.recorded(label, metrics.as_dict(), seconds, note=note)

    @classmethod
    def recorded(
        cls, label: str, metrics: dict[str, Any], seconds: float | None = None, *, note: str = ""
    ) -> MetricRow:
        """The row of metrics read from a JSON record."""
        low, high = metrics["samples_f1_interval"]
        return cls(
            label=label,
            spread=(high - low) / 2,
            n_left_out=metrics["n_classes_left_out"],
            seconds=seconds,
            note=note,
            **{name: metrics[name] for name in _SHOWN},
        )

    @classmethod
    def over_seeds(
        cls, label: str, seeds: list[dict[str, Any]], seconds: float | None = None, *, note: str = ""
    ) -> MetricRow:
        """The mean over seeds, with their standard deviation."""
        mean = {name: float(np.mean([seed[name] for seed in seeds])) for name in _SHOWN}
        spread = float(np.std([seed["samples_f1"] for seed in seeds], ddof=1)) if len(seeds) > 1 else 0.0
        left_out = seeds[0]["n_classes_left_out"]
        return cls(label=label, spread=spread, n_left_out=left_out, seconds=seconds, note=note, **mean)
