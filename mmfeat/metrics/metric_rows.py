"""The figures of one model on some rows, with their spread, as a run records them and tables show them."""

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


@dataclass(frozen=True)
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
    """Score logits `(n, K)` against labels `(n, K)` int8 by what turns them into labels.

    The loss and the calibration error are those of calibrated probabilities; average precision reads the logits
    themselves, whose order within a class no temperature changes.
    """
    probs = decision.probs(logits)
    decided = decision.labels(probs)
    found, calibrated = scores(labels, decided, logits), decision.calibrated(logits)
    if calibrated is not logits:
        kept = (labels >= 0).any(1)
        loss = float(row_losses(labels[kept], calibrated[kept]).sum() / (labels >= 0).sum())
        found = dataclasses.replace(found, loss=loss)
    rows_f1 = samples_f1_rows(labels, decided)
    low, high = bootstrap_mean(rows_f1)
    return Metrics(found, low, high, rows_f1, expected_calibration_error(labels, probs))


def outcome_of(logits: np.ndarray, decision: DecisionRule) -> Outcome:
    """What a paired bootstrap compares: logits `(n, K)` and what they decide."""
    return Outcome(decision.labels(decision.probs(logits)), logits, decision.calibrated(logits))


def score_by(metric: str, rule: PredictConfig) -> Callable[[np.ndarray, np.ndarray], float]:
    """What a choice maximises: labels and logits `(n, K)` to the metric's value, the loss with its sign turned."""
    sign = 1.0 if better(metric, 1.0, 0.0) else -1.0

    def score(labels: np.ndarray, logits: np.ndarray) -> float:
        return sign * float(metric_values(metric, labels, logits[None], rule)[0])

    return score


@dataclass(frozen=True)
class MetricRow:
    """One line of a table of figures.

    Attributes
    ----------
    spread : float
        Half the 95 % bootstrap interval of samples-F1 over rows or, for a line over seeds, their standard deviation.
    n_left_out : int
        Classes without a positive among the rows, which macro-F1 and mAP leave out.
    seconds : float or None
        What it took to train.
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
    def of(cls, label: str, figures: Metrics, seconds: float | None = None, note: str = "") -> MetricRow:
        """The line of one model's figures."""
        return cls.recorded(label, figures.as_dict(), seconds, note)

    @classmethod
    def recorded(cls, label: str, figures: dict[str, Any], seconds: float | None = None, note: str = "") -> MetricRow:
        """The line of figures as JSON holds them."""
        low, high = figures["samples_f1_interval"]
        return cls(
            label,
            spread=(high - low) / 2,
            n_left_out=figures["n_classes_left_out"],
            seconds=seconds,
            note=note,
            **{name: figures[name] for name in _SHOWN},
        )

    @classmethod
    def over_seeds(
        cls, label: str, seeds: list[dict[str, Any]], seconds: float | None = None, note: str = ""
    ) -> MetricRow:
        """The mean over single seeds, with their standard deviation."""
        mean = {name: float(np.mean([seed[name] for seed in seeds])) for name in _SHOWN}
        spread = float(np.std([seed["samples_f1"] for seed in seeds], ddof=1)) if len(seeds) > 1 else 0.0
        left_out = seeds[0]["n_classes_left_out"]
        return cls(label, spread=spread, n_left_out=left_out, seconds=seconds, note=note, **mean)
