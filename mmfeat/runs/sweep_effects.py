"""Grids of settings: the mean of each cell over its seeds, and which setting explains how much of the differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.metrics import better

METRIC_NAMES = ("samples_f1", "micro_f1", "macro_f1", "map", "loss")


@dataclass(frozen=True)
class SweptCell:
    """The heads of one head's name and settings, or the fits of one encoder.

    Attributes
    ----------
    head : str
        The name of the head, or of the encoder.
    values : dict of str to Any
        Key to value, for the keys that are swept; `head` among them where several are.
    heads : list of dict
        By seed: `figures`, `best_epoch`, `seconds` and further numbers, or `error`.
    """

    head: str
    values: dict[str, Any]
    heads: list[dict[str, Any]]

    @property
    def error(self) -> str:
        """Why a head of it could not be trained; empty where all could."""
        return next((head["error"] for head in self.heads if head.get("error")), "")

    def scores(self, metric: str) -> list[float]:
        """A figure of each seed."""
        return [_number(head["figures"][metric.replace("-", "_")]) for head in self.heads if not head.get("error")]

    def mean(self, figure: str) -> float:
        """A figure, `best_epoch` or another number on average over seeds; NaN where every head failed."""
        whole = [head for head in self.heads if not head.get("error")]
        found = [_number(head["figures"][figure] if figure in METRIC_NAMES else head[figure]) for head in whole]
        return float(np.mean(found)) if found else math.nan

    def deviation(self, metric: str) -> float:
        """Of the figure over seeds."""
        found = self.scores(metric)
        return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def _number(value: float | None) -> float:
    """A figure as JSON has it: None where no class has a positive."""
    return math.nan if value is None else value


@dataclass(frozen=True)
class Effect:
    """How much one setting explains by itself.

    Attributes
    ----------
    means : list of (value, float)
        The mean of the figure over all heads with a value, best first.
    share : float
        Of the variance over the heads that have the setting.
    """

    key: str
    means: list[tuple[Any, float]]
    share: float


def best_first(cells: Sequence[SweptCell], metric: str) -> list[SweptCell]:
    """By the mean over seeds; cells with a head that failed, or without a figure, come last."""
    sign = -1.0 if better(metric, 1.0, 0.0) else 1.0

    def key(cell: SweptCell) -> tuple[bool, float]:
        mean = math.nan if cell.error else cell.mean(metric.replace("-", "_"))
        return (True, 0.0) if math.isnan(mean) else (False, sign * mean)

    return sorted(cells, key=key)


def lowest_loss(cells: Sequence[SweptCell]) -> SweptCell | None:
    """The cell to take where logits are averaged (paper, section 4.3; P17); None where every cell failed."""
    found = [cell for cell in cells if not cell.error and math.isfinite(cell.mean("loss"))]
    return min(found, key=lambda cell: cell.mean("loss"), default=None)


def main_effects(cells: Sequence[SweptCell], metric: str) -> list[Effect]:
    """For each key with several values the share of the variance that lies between their means; the largest first.

    Cells with a head that failed are left out. The heads of all seeds count; what no setting explains is between seeds and
    in combinations of settings.
    """
    sign, found = (-1.0 if better(metric, 1.0, 0.0) else 1.0), []
    whole = [cell for cell in cells if not cell.error and np.isfinite(cell.scores(metric)).all()]
    for key in dict.fromkeys(key for cell in whole for key in cell.values):
        by_value: dict[Any, list[float]] = {}
        for cell in whole:
            if key in cell.values:
                by_value.setdefault(cell.values[key], []).extend(cell.scores(metric))
        if len(by_value) < 2:
            continue
        every = np.concatenate(list(by_value.values()))
        between = sum(len(scores) * (np.mean(scores) - every.mean()) ** 2 for scores in by_value.values())
        total = float(((every - every.mean()) ** 2).sum())
        means = [(value, float(np.mean(scores))) for value, scores in by_value.items()]
        found.append(Effect(key, sorted(means, key=lambda m: sign * m[1]), float(between) / total if total else 0.0))
    return sorted(found, key=lambda effect: -effect.share)
