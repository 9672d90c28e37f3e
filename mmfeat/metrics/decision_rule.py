"""The decision rule, from logits to labels: a temperature, thresholds and the rule for empty rows, fitted on val rows.

Metrics on val are out of sample: the labels of a val row come from a rule fitted on the other folds of val
(:func:`crossfit_decision_rule`). All other rows, and exported models, use the rule fitted on all val rows
(:func:`fit_decision_rule`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.json_shapes import Choice, Number, Shape, misfit
from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.metrics import Outcome, crossfitted, fit_temperature, fit_thresholds, paired_bootstrap, samples_f1_rows
from mmfeat.metrics.thresholds import UNFITTED, tuned_metric

GAIN_RESAMPLES = 400  # of a gain's standard error
NORMAL_95 = 1.959964  # half the 95 % interval in standard errors
DECISION: Shape = {
    "?temperature": Number(float, above=0.0),
    "threshold": (Number(float, 0.0, 1.0), [Number(float, 0.0, 1.0)]),
    "empty": Choice(("most-probable", "none")),
}


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """Turns logits into probabilities and labels.

    Attributes
    ----------
    temperature : float or np.ndarray
        Divides the logits: one number, or `(N, 1)` with one for each row.
    threshold : float or np.ndarray
        One number, one for each class `(K,)`, or one for each row: `(N, 1)` or `(N, K)`.
    empty : str
        Labels of a row without a probability above its threshold, see :func:`mmfeat.common.labels.decide`.
    """

    temperature: float | np.ndarray = 1.0
    threshold: float | np.ndarray = 0.5
    empty: str = "most-probable"

    @classmethod
    def of(cls, record: dict[str, Any]) -> DecisionRule:
        """Read a record of :meth:`as_dict`; a record without a temperature gets temperature 1.

        Raises
        ------
        ValueError
            The temperature is not above 0, a threshold is not from 0 to 1, or the rule for empty rows is unknown.
        """
        if why := misfit(record, DECISION):
            raise ValueError(why)
        threshold = record["threshold"]
        threshold = np.array(threshold, np.float64) if isinstance(threshold, list) else threshold
        return cls(record.get("temperature", 1.0), threshold, record["empty"])

    def as_dict(self) -> dict[str, Any]:
        """JSON values of a rule that is the same for all rows, at full precision."""
        threshold = np.asarray(self.threshold, np.float64).tolist()
        return {"temperature": float(self.temperature), "threshold": threshold, "empty": self.empty}

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Logits divided by the temperature, in their own dtype; the same array if the temperature is 1."""
        if isinstance(self.temperature, float) and self.temperature == 1.0:
            return logits
        return logits / np.asarray(self.temperature, logits.dtype)

    def probs(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `(N, K)` of logits."""
        return sigmoid(self.calibrated(logits))

    def labels(self, probs: np.ndarray) -> np.ndarray:
        """Predicted labels `(N, K)` int8 for probabilities from :meth:`probs`."""
        return decide(probs, self.threshold, self.empty)

    @property
    def is_half(self) -> bool:
        """Whether the threshold is 0.5 for every row and class."""
        return bool((np.asarray(self.threshold) == UNFITTED).all())

    def n_empty(self, probs: np.ndarray) -> int:
        """Number of rows without a probability above its threshold."""
        return int((probs <= np.asarray(self.threshold, probs.dtype)).all(1).sum())

    def in_order_of(self, at: np.ndarray) -> DecisionRule:
        """The same rule for reordered classes: column k of the result is column `at[k]` of this rule."""
        by_class = isinstance(self.threshold, np.ndarray) and self.threshold.shape[-1] == len(at)
        return dataclasses.replace(self, threshold=self.threshold[..., at]) if by_class else self

    def with_rows(self, of: DecisionRule, rows: np.ndarray, n: int) -> DecisionRule:
        """A rule for n rows: row i uses row `rows[i]` of another rule, or this rule where `rows[i]` is -1."""

        def placed(common: Any, by_row: Any) -> np.ndarray:
            values = np.repeat(np.atleast_2d(common).astype(np.float64), n, 0)  # (n, 1) or (n, K)
            values[rows >= 0] = by_row[rows[rows >= 0]]
            return values

        temperature, threshold = self.temperature, self.threshold
        if isinstance(of.temperature, np.ndarray):
            temperature = placed(temperature, of.temperature)
        if isinstance(of.threshold, np.ndarray) and of.threshold.ndim == 2:
            threshold = placed(threshold, of.threshold)
        return dataclasses.replace(self, temperature=temperature, threshold=threshold)


@dataclass(frozen=True, kw_only=True)
class AutoThreshold:
    """How val rows decided between a fitted threshold and 0.5.

    Attributes
    ----------
    metric : str
        The metric that decided: the project's, or samples-F1 if that does not depend on a threshold.
    gain, error : float
        The fitted threshold's metric minus that at 0.5, cross-fitted on val, and the standard error of this difference.
    rule : DecisionRule
        The rule of each val row: fitted on the other folds, or 0.5 for all.
    """

    metric: str
    gain: float
    error: float
    rule: DecisionRule

    @property
    def fitted(self) -> bool:
        """Whether the fitted threshold is used: its gain is beyond the standard error."""
        return self.gain > self.error

    def settled(self, settings: PredictConfig) -> PredictConfig:
        """The settings of the finished model: `tuned` or 0.5 in place of `auto`."""
        return dataclasses.replace(settings, threshold="tuned" if self.fitted else UNFITTED)


def auto_threshold(
    settings: PredictConfig, metric: str, *, labels: np.ndarray, logits: np.ndarray, numbers: np.ndarray
) -> AutoThreshold:
    """Decide between a fitted threshold and 0.5 on labelled rows; parameters as :func:`crossfit_decision_rule`."""
    metric = tuned_metric(metric)
    tuned = dataclasses.replace(settings, threshold="tuned")
    fitted = crossfit_decision_rule(tuned, metric, labels=labels, logits=logits, numbers=numbers)
    fixed = dataclasses.replace(fitted, threshold=UNFITTED)
    gain, error = gain_of(metric, fitted, fixed, labels=labels, logits=logits, numbers=numbers)
    return AutoThreshold(metric=metric, gain=gain, error=error, rule=fitted if gain > error else fixed)


def gain_of(
    metric: str, rule: DecisionRule, other: DecisionRule, *, labels: np.ndarray, logits: np.ndarray, numbers: np.ndarray
) -> tuple[float, float]:
    """An F1 by one rule minus that by another on the same rows, and the standard error of this difference.

    The error of samples-F1 is that of a mean over rows; the others are bootstrapped, with rows in the order of `numbers`.
    """
    one, two = (r.labels(r.probs(logits)) for r in (rule, other))
    if (one == two).all() or not (labels >= 0).any():
        return 0.0, 0.0
    if metric == "samples-f1":
        difference = samples_f1_rows(labels, one) - samples_f1_rows(labels, two)
        return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
    order, name = np.argsort(numbers, kind="stable"), metric.replace("-", "_")
    sides = (Outcome(predicted[order], logits[order], logits[order]) for predicted in (one, two))
    gain, low, high = paired_bootstrap(labels[order], *sides, n=GAIN_RESAMPLES, names=(name,))[name]
    return gain, (high - low) / (2 * NORMAL_95)


def fit_decision_rule(
    settings: PredictConfig,
    metric: str,
    *,
    labels: np.ndarray,
    logits: np.ndarray,
    numbers: np.ndarray | None = None,
) -> DecisionRule:
    """The rule that predicts, fitted on labelled rows; the rows are not read if nothing is tuned.

    Parameters
    ----------
    numbers : np.ndarray, optional
        `(N,)` uint64, one for each id; `auto` needs them for its folds.
    """
    if settings.auto:
        if numbers is None or not len(labels):
            settings = dataclasses.replace(settings, threshold=UNFITTED)
        else:
            found = auto_threshold(settings, metric, labels=labels, logits=logits, numbers=numbers)
            settings = found.settled(settings)
    decision = DecisionRule(1.0, settings.untuned, settings.empty)
    if settings.calibration == "temperature":
        decision = dataclasses.replace(decision, temperature=fit_temperature(labels, logits))
    if settings.tuned:
        threshold = fit_thresholds(
            labels, decision.probs(logits), metric, per_class=settings.per_class, empty=settings.empty
        )
        decision = dataclasses.replace(decision, threshold=threshold)
    return decision


def crossfit_decision_rule(
    settings: PredictConfig, metric: str, *, labels: np.ndarray, logits: np.ndarray, numbers: np.ndarray
) -> DecisionRule:
    """A rule for each row, fitted on the other folds of the same rows, so that the row's metrics are out of sample.

    With `auto`, whether thresholds are fitted is decided once, for all rows.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)` uint64, one for each id; they define the folds.
    """
    if not settings.fits:
        return fit_decision_rule(settings, metric, labels=labels, logits=logits)
    if settings.auto:
        return auto_threshold(settings, metric, labels=labels, logits=logits, numbers=numbers).rule

    def fit(fold_labels: np.ndarray, fold_logits: np.ndarray) -> np.ndarray:
        found = fit_decision_rule(settings, metric, labels=fold_labels, logits=fold_logits)
        return np.append(found.temperature, found.threshold)

    by_row = crossfitted(fit, labels, logits, numbers=numbers)  # (N, 2) or (N, 1 + K)
    temperature = by_row[:, :1] if settings.calibration == "temperature" else 1.0
    return DecisionRule(temperature, by_row[:, 1:] if settings.tuned else settings.untuned, settings.empty)
