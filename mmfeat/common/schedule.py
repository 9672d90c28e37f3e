"""The learning rate schedule of encoders and heads."""

from __future__ import annotations

import math


def schedule(step: int, total: int, warm_up: float, constant: bool = False) -> float:
    """Share of the learning rate at a step of `total`: a linear rise over a share `warm_up`, then half a cosine to 0.

    With `constant` it stays at its maximum after the rise; without a `warm_up` it starts there.
    """
    warm = max(0 if constant else 1, round(total * warm_up))
    if step < warm:
        return (step + 1) / warm
    return 1.0 if constant else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
