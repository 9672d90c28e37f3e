"""The learning rate schedule of encoders and heads."""

from __future__ import annotations

import math


def schedule(step: int, total: int, warm_up: float, constant: bool = False) -> float:
    """The factor of the learning rate at a step: a linear warm-up, then half a cosine down to 0.

    Parameters
    ----------
    step, total : int
        The step, from 0, and the number of all steps.
    warm_up : float
        Share of all steps over which the factor rises to 1; 0 for no warm-up.
    constant : bool
        Keep the factor at 1 after the warm-up.
    """
    warm = max(0 if constant else 1, round(total * warm_up))
    if step < warm:
        return (step + 1) / warm
    return 1.0 if constant else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
