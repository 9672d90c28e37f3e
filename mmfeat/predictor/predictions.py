"""Predictions: labels, probabilities, and the unimodal prediction of each encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from mmfeat.common.labels import label_names, sigmoid
from mmfeat.metrics.decision_rule import DecisionRule


class HeadOutputs(NamedTuple):
    """Outputs of the heads for B items.

    Attributes
    ----------
    logits : np.ndarray
        `(B, K)` float32.
    known : np.ndarray
        `(B,)` bool: the item has one of the modalities.
    unimodal : dict of str to np.ndarray
        Unimodal logits of each encoder, `(B, K)` float32, also for items without the modality.
    """

    logits: np.ndarray
    known: np.ndarray
    unimodal: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction of one item.

    Attributes
    ----------
    labels : list of str
        The predicted labels, in class order.
    probabilities : dict of str to float
        The probability of every class, in class order.
    unimodal : dict of str to dict of str to float
        Unimodal probabilities by encoder; encoders whose modality is missing are left out.
    error : str
        Why the image could not be read; empty if it could, or without an image.
    """

    labels: list[str]
    probabilities: dict[str, float]
    unimodal: dict[str, dict[str, float]]
    error: str = ""

    def top(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, most probable first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:k]

    @property
    def opinions(self) -> dict[str, dict[str, float]]:
        """The name of `unimodal` in version 0.1."""
        return self.unimodal


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions(Sequence[Prediction]):
    """The predictions of N items, in order; an index gives one :class:`Prediction`.

    Attributes
    ----------
    probs : np.ndarray
        `(N, K)` float32.
    predicted : np.ndarray
        `(N, K)` int8, the predicted labels (0 or 1).
    unimodal : dict of str to np.ndarray
        Unimodal probabilities `(N, K)` float32 by encoder; NaN for items without the modality.
    known : np.ndarray
        `(N,)` bool: False if neither image nor caption could be read.
    errors : dict of int to str
        For rows whose image could not be read, the reason.
    """

    classes: tuple[str, ...]
    probs: np.ndarray
    predicted: np.ndarray
    unimodal: dict[str, np.ndarray]
    known: np.ndarray
    errors: dict[int, str]

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        outputs: HeadOutputs,
        present: dict[str, np.ndarray],
        *,
        decision: DecisionRule,
        errors: dict[int, str] | None = None,
    ) -> Predictions:
        """Apply a decision rule to logits; unimodal probabilities are not calibrated."""
        unimodal = {
            name: np.where(present[name][:, None], sigmoid(logits), np.nan).astype(np.float32)
            for name, logits in outputs.unimodal.items()
        }
        probs = decision.probs(outputs.logits)
        return cls(
            classes=tuple(classes),
            probs=probs,
            predicted=decision.labels(probs),
            unimodal=unimodal,
            known=outputs.known,
            errors=errors or {},
        )

    @classmethod
    def joined(cls, parts: Sequence[Predictions], errors: dict[int, str]) -> Predictions:
        """Concatenate predictions (at least one); `errors` has row numbers of the result."""
        unimodal = {name: np.concatenate([part.unimodal[name] for part in parts]) for name in parts[0].unimodal}
        probs, predicted, known = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("probs", "predicted", "known")
        )
        return cls(
            classes=parts[0].classes, probs=probs, predicted=predicted, unimodal=unimodal, known=known, errors=errors
        )

    @property
    def labels(self) -> list[list[str]]:
        """The names of each row's predicted labels, in class order."""
        return label_names(self.predicted, self.classes)

    def __len__(self) -> int:
        return len(self.probs)

    @overload
    def __getitem__(self, row: int) -> Prediction: ...
    @overload
    def __getitem__(self, row: slice) -> list[Prediction]: ...
    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        unimodal = {
            name: self._named(probs[row]) for name, probs in self.unimodal.items() if probs[row, 0] == probs[row, 0]
        }
        (labels,) = label_names(self.predicted[row : row + 1], self.classes)
        return Prediction(
            labels=labels, probabilities=self._named(self.probs[row]), unimodal=unimodal, error=self.errors.get(row, "")
        )

    def _named(self, probs: np.ndarray) -> dict[str, float]:
        return dict(zip(self.classes, probs.tolist(), strict=True))
