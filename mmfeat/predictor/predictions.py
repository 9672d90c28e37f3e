"""What a predictor says of items: labels, probabilities, and what each encoder says alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from mmfeat.common.labels import label_names, sigmoid
from mmfeat.metrics.decision_rule import DecisionRule


class HeadOutputs(NamedTuple):
    """What heads make of B items.

    Attributes
    ----------
    logits : np.ndarray
        `(B, K)` float32.
    known : np.ndarray
        `(B,)` bool: the item has one of the modalities.
    opinions : dict of str to np.ndarray
        Encoder to its logits alone, `(B, K)` float32, whether an item has the modality or not.
    """

    logits: np.ndarray
    known: np.ndarray
    opinions: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of one item.

    Attributes
    ----------
    labels : list of str
        Those that passed the threshold, in the order of the classes.
    probabilities : dict of str to float
        Of every class, in the same order.
    opinions : dict of str to dict of str to float
        Encoder to the probabilities that it gives alone; an encoder whose modality the item lacks is left out.
    error : str
        Why the image could not be read; empty where it could, or there was none.
    """

    labels: list[str]
    probabilities: dict[str, float]
    opinions: dict[str, dict[str, float]]
    error: str = ""

    def top(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:k]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions(Sequence[Prediction]):
    """Of N items, in their order; an index gives one :class:`Prediction`.

    Attributes
    ----------
    probs : np.ndarray
        `(N, K)` float32.
    decided : np.ndarray
        `(N, K)` int8 of 0 and 1.
    opinions : dict of str to np.ndarray
        Encoder to probabilities `(N, K)` float32; NaN where an item lacks the modality.
    known : np.ndarray
        `(N,)` bool: False where neither image nor caption could be read.
    errors : dict of int to str
        Row to the reason why its image could not be read.
    """

    classes: tuple[str, ...]
    probs: np.ndarray
    decided: np.ndarray
    opinions: dict[str, np.ndarray]
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
        """From logits to labels; what an encoder says alone is as its logits have it, not calibrated."""
        opinions = {
            name: np.where(present[name][:, None], sigmoid(logits), np.nan).astype(np.float32)
            for name, logits in outputs.opinions.items()
        }
        probs = decision.probs(outputs.logits)
        return cls(
            classes=tuple(classes),
            probs=probs,
            decided=decision.labels(probs),
            opinions=opinions,
            known=outputs.known,
            errors=errors or {},
        )

    @classmethod
    def joined(cls, parts: Sequence[Predictions], errors: dict[int, str]) -> Predictions:
        """Those of one part after another (one at least); `errors` are by the rows of all."""
        opinions = {name: np.concatenate([part.opinions[name] for part in parts]) for name in parts[0].opinions}
        probs, decided, known = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("probs", "decided", "known")
        )
        return cls(
            classes=parts[0].classes, probs=probs, decided=decided, opinions=opinions, known=known, errors=errors
        )

    @property
    def labels(self) -> list[list[str]]:
        """The names of each row's labels, in the order of the classes."""
        return label_names(self.decided, self.classes)

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
        opinions = {
            name: self._named(probs[row]) for name, probs in self.opinions.items() if probs[row, 0] == probs[row, 0]
        }
        (labels,) = label_names(self.decided[row : row + 1], self.classes)
        return Prediction(
            labels=labels, probabilities=self._named(self.probs[row]), opinions=opinions, error=self.errors.get(row, "")
        )

    def _named(self, probs: np.ndarray) -> dict[str, float]:
        return dict(zip(self.classes, probs.tolist(), strict=True))
