"""Dataclass fields of settings, with their allowed values."""

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
    """A dataclass field of a setting, with its allowed values.

    Parameters
    ----------
    choices : collection of str
        The allowed texts.
    low, high : float, optional
        Limits of a number, both included.
    filled : bool
        Refuse an empty value.
    encoder : bool
        The value is the name of an encoder, or empty.
    """
    return field(
        default=default,
        metadata={"choices": choices, "low": low, "high": high, "filled": filled, "encoder": encoder},
    )
