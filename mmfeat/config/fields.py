"""Fields of the dataclasses that hold settings, with the values that each may take."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field
from typing import Any

LOSSES = ("bce", "focal", "asymmetric")
MAX_LR = 10.0


def setting(
    default: Any,
    *,
    choices: Collection[Any] = (),
    low: float | None = None,
    high: float | None = None,
    filled: bool = False,
    encoder: bool = False,
) -> Any:
    """A dataclass field of a setting, with the values that it may take.

    Parameters
    ----------
    choices : collection of str
        The texts that it may be.
    low, high : float, optional
        Limits of a number.
    filled : bool
        Whether an empty text is refused.
    encoder : bool
        Whether it names an encoder, or is empty.
    """
    return field(
        default=default,
        metadata={"choices": choices, "low": low, "high": high, "filled": filled, "encoder": encoder},
    )
