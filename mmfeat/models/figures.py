"""The figures of one model on some rows, with their spread, as a run records them and tables show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.config import PredictConfig
from mmfeat.labels import decide, sigmoid
from mmfeat.metrics import Scores, bootstrap_mean, samples_f1_rows, scores


@dataclass(frozen=True)
class Figures:
    """Scores and the 95 % bootstrap interval of samples-F1 over rows.

    Attributes
    ----------
    rows_f1 : np.ndarray
        F1 of each row's label set, `(n,)`; for paired comparisons.
    """

    scores: Scores
    low: float
    high: float
    rows_f1: np.ndarray

    @property
    def half_width(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.scores.as_dict(), "samples_f1_interval": [self.low, self.high]}


def figures_of(labels: np.ndarray, logits: np.ndarray, rule: PredictConfig) -> Figures:
    """Score logits `(n, K)` against labels `(n, K)` int8 by a rule that turns probabilities into labels."""
    decided = decide(sigmoid(logits), rule.threshold, rule.empty)
    rows_f1 = samples_f1_rows(labels, decided)
    low, high = bootstrap_mean(rows_f1)
    return Figures(scores(labels, decided, logits), low, high, rows_f1)


@dataclass(frozen=True)
class FigureLine:
    """One line of a table of figures.

    Attributes
    ----------
    spread : float
        Half the 95 % bootstrap interval of samples-F1 over rows or, for a line over seeds, their standard deviation.
    seconds : float or None
        What it took to train.
    """

    label: str
    samples_f1: float
    spread: float
    macro_f1: float
    map: float
    seconds: float | None = None
    note: str = ""

    @classmethod
    def of(cls, label: str, figures: Figures, seconds: float | None = None, note: str = "") -> FigureLine:
        """The line of one model's figures."""
        s = figures.scores
        return cls(label, s.samples_f1, figures.half_width, s.macro_f1, s.map, seconds, note)

    @classmethod
    def over_seeds(
        cls, label: str, seeds: list[dict[str, Any]], seconds: float | None = None, note: str = ""
    ) -> FigureLine:
        """The mean over single seeds, with their standard deviation."""
        mean = {name: float(np.mean([seed[name] for seed in seeds])) for name in ("samples_f1", "macro_f1", "map")}
        spread = float(np.std([seed["samples_f1"] for seed in seeds], ddof=1)) if len(seeds) > 1 else 0.0
        return cls(label, mean["samples_f1"], spread, mean["macro_f1"], mean["map"], seconds, note)
