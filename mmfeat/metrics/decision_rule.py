"""From logits to labels: the temperature, the thresholds and the rule for empty rows, fitted on val rows where they are tuned.

What is fitted on val rows is only out of sample for other rows. So a val row is decided by what the other folds of val
gave (:func:`crossfitted`), which is what figures on val come from, and every other row by what all of val gave
(:func:`fitted`), which is what predicts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.json_shapes import Choice, Number, Shape, misfit
from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.metrics import crossfitted as cross
from mmfeat.metrics import fit_temperature, fit_thresholds

DECISION: Shape = {
    "?temperature": Number(float, above=0.0),
    "threshold": (Number(float, 0.0, 1.0), [Number(float, 0.0, 1.0)]),
    "empty": Choice(("most-probable", "none")),
}


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """What turns logits into probabilities and labels.

    Attributes
    ----------
    temperature : float or np.ndarray
        What logits are divided by: a number, or `(N, 1)` with one for each row.
    threshold : float or np.ndarray
        A number, `(K,)`, or with a row for each row `(N, 1)` or `(N, K)`.
    empty : str
        What a row gets where nothing passes, as in :func:`mmfeat.common.labels.decide`.
    """

    temperature: float | np.ndarray = 1.0
    threshold: float | np.ndarray = 0.5
    empty: str = "most-probable"

    @classmethod
    def of(cls, record: dict[str, Any]) -> DecisionRule:
        """From what :meth:`as_dict` gave; a record without a temperature has none.

        Raises
        ------
        ValueError
            The temperature is not above 0, a threshold not from 0 to 1, or the rule for empty rows is none.
        """
        if why := misfit(record, DECISION):
            raise ValueError(why)
        threshold = record["threshold"]
        threshold = np.array(threshold, np.float64) if isinstance(threshold, list) else threshold
        return cls(record.get("temperature", 1.0), threshold, record["empty"])

    def as_dict(self) -> dict[str, Any]:
        """JSON values of a decision that is the same for all rows; they lose no digit."""
        threshold = np.asarray(self.threshold, np.float64).tolist()
        return {"temperature": float(self.temperature), "threshold": threshold, "empty": self.empty}

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Logits over the temperature, in their own type; the same array where that is 1."""
        if isinstance(self.temperature, float) and self.temperature == 1.0:
            return logits
        return logits / np.asarray(self.temperature, logits.dtype)

    def probs(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities `(N, K)` of logits, calibrated."""
        return sigmoid(self.calibrated(logits))

    def labels(self, probs: np.ndarray) -> np.ndarray:
        """Labels `(N, K)` int8 of what :meth:`probs` gave."""
        return decide(probs, self.threshold, self.empty)

    def n_empty(self, probs: np.ndarray) -> int:
        """Rows where nothing passes."""
        return int((probs <= np.asarray(self.threshold, probs.dtype)).all(1).sum())

    def in_order_of(self, at: np.ndarray) -> DecisionRule:
        """The same for classes in another order: first that of number `at[0]`, and so on."""
        by_class = isinstance(self.threshold, np.ndarray) and self.threshold.shape[-1] == len(at)
        return dataclasses.replace(self, threshold=self.threshold[..., at]) if by_class else self

    def with_rows(self, of: DecisionRule, rows: np.ndarray, n: int) -> DecisionRule:
        """The same for n rows, but by another decision where `rows[i]` is a row number of that one and not -1."""

        def placed(all_alike: Any, by_row: Any) -> np.ndarray:
            values = np.repeat(np.atleast_2d(all_alike).astype(np.float64), n, 0)  # (n, 1) or (n, K)
            values[rows >= 0] = by_row[rows[rows >= 0]]
            return values

        temperature, threshold = self.temperature, self.threshold
        if isinstance(of.temperature, np.ndarray):
            temperature = placed(temperature, of.temperature)
        if isinstance(of.threshold, np.ndarray) and of.threshold.ndim == 2:
            threshold = placed(threshold, of.threshold)
        return dataclasses.replace(self, temperature=temperature, threshold=threshold)


def fitted(rule: PredictConfig, metric: str, labels: np.ndarray, logits: np.ndarray) -> DecisionRule:
    """What is shipped: fitted on all of some labelled rows; where nothing is tuned they are not read."""
    decision = DecisionRule(1.0, rule.untuned, rule.empty)
    if rule.calibration == "temperature":
        decision = dataclasses.replace(decision, temperature=fit_temperature(labels, logits))
    if rule.tuned:
        threshold = fit_thresholds(labels, decision.probs(logits), metric, rule.per_class, rule.empty)
        decision = dataclasses.replace(decision, threshold=threshold)
    return decision


def crossfitted(
    rule: PredictConfig, metric: str, labels: np.ndarray, logits: np.ndarray, numbers: np.ndarray
) -> DecisionRule:
    """Each row's decision fitted on the other folds of the same rows, so that its figures are out of sample.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)` uint64, one for each id: they say the folds.
    """
    if not rule.fits:
        return fitted(rule, metric, labels, logits)

    def fit(some: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        found = fitted(rule, metric, some, outputs)
        return np.append(found.temperature, found.threshold)

    by_row = cross(fit, labels, logits, numbers)  # (N, 2) or (N, 1 + K)
    temperature = by_row[:, :1] if rule.calibration == "temperature" else 1.0
    return DecisionRule(temperature, by_row[:, 1:] if rule.tuned else rule.untuned, rule.empty)
