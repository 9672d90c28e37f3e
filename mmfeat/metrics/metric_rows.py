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
from mmfeat.metrics.decision_rule import NORMAL_95, DecisionRule
from mmfeat.metrics.fast_metric import metric_values
from mmfeat.metrics.map_error import map_error
from mmfeat.metrics.scoring import f1_scores
from mmfeat.metrics.thresholds import UNFITTED

_F1 = ("samples_f1", "micro_f1", "macro_f1")
_SHOWN = (*_F1, "map", "loss")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores and the 95 % intervals of samples-F1 (bootstrap over rows) and mAP (standard error over rows).

    Attributes
    ----------
    map_spread : float
        Half the interval of mAP.
    at_half : dict of str to float
        The F1 metrics by their names in `Scores` if 0.5 were the threshold; empty if it is.
    never_predicted : int
        Classes with a positive among the rows that no row is given.
    ece : float
        Expected calibration error of the probabilities, over all known labels.
    rows_f1 : np.ndarray
        F1 of each row's label set, `(n,)`; for paired comparisons.
    """

    scores: Scores
    low: float
    high: float
    map_spread: float
    at_half: dict[str, float]
    never_predicted: int
    rows_f1: np.ndarray
    ece: float

    @property
    def half_width(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        value = self.scores.map
        return {
            **self.scores.as_dict(),
            "samples_f1_interval": [self.low, self.high],
            "map_interval": [value - self.map_spread, value + self.map_spread],
            "ece": self.ece,
            "never_predicted": self.never_predicted,
            **({"at_half": self.at_half} if self.at_half else {}),
        }


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
    return Metrics(
        scores=found,
        low=low,
        high=high,
        map_spread=NORMAL_95 * map_error(labels, logits),
        at_half=_at_half(labels, probs, decision),
        never_predicted=int((found.n_positives > 0).sum() - predicted[:, found.n_positives > 0].any(0).sum()),
        rows_f1=rows_f1,
        ece=expected_calibration_error(labels, probs),
    )


def _at_half(labels: np.ndarray, probs: np.ndarray, decision: DecisionRule) -> dict[str, float]:
    if decision.is_half:
        return {}
    return f1_scores(labels, dataclasses.replace(decision, threshold=UNFITTED).labels(probs))


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
    spread, map_spread : float
        Half the 95 % interval of samples-F1 and of mAP or, for a row over seeds, the standard deviations. That of mAP is
        None if it was not recorded.
    at_half : dict of str to float
        The F1 metrics at the threshold 0.5, by their names in `Scores`; the same as the others if that is the threshold.
    n_left_out : int
        Classes without a positive among the rows; macro-F1 and mAP leave them out.
    never_predicted : int
        Classes with a positive among the rows that no row is given.
    seconds : float or None
        Training time.
    """

    label: str
    samples_f1: float
    spread: float
    micro_f1: float
    macro_f1: float
    map: float
    map_spread: float | None
    loss: float
    at_half: dict[str, float]
    n_left_out: int
    never_predicted: int
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
        map_low, map_high = metrics.get("map_interval") or (None, None)
        return cls(
            label=label,
            spread=(high - low) / 2,
            map_spread=None if map_low is None else (map_high - map_low) / 2,
            at_half=_half_of(metrics),
            n_left_out=metrics["n_classes_left_out"],
            never_predicted=metrics.get("never_predicted", 0),
            seconds=seconds,
            note=note,
            **{name: metrics[name] for name in _SHOWN},
        )

    @classmethod
    def over_seeds(
        cls, label: str, seeds: list[dict[str, Any]], seconds: float | None = None, *, note: str = ""
    ) -> MetricRow:
        """The mean over seeds, with their standard deviation."""

        def deviation(name: str) -> float:
            return float(np.std([seed[name] for seed in seeds], ddof=1)) if len(seeds) > 1 else 0.0

        at_half = [_half_of(seed) for seed in seeds]
        return cls(
            label=label,
            spread=deviation("samples_f1"),
            map_spread=deviation("map"),
            at_half={name: float(np.mean([one[name] for one in at_half])) for name in at_half[0]},
            n_left_out=seeds[0]["n_classes_left_out"],
            never_predicted=min(seed.get("never_predicted", 0) for seed in seeds),
            seconds=seconds,
            note=note,
            **{name: float(np.mean([seed[name] for seed in seeds])) for name in _SHOWN},
        )


def _half_of(metrics: dict[str, Any]) -> dict[str, float]:
    """The F1 metrics at 0.5 of a JSON record, which has them only if the threshold is another one."""
    return metrics.get("at_half") or {name: metrics[name] for name in _F1}
