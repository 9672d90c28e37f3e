"""Dataclass fields of settings, with their allowed values."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import field
from typing import Any

LOSSES = ("bce", "focal", "asymmetric")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("cosine", "constant")
MAX_LR = 10.0


def setting(
    default: Any,
    *,
    choices: Collection[Any] = (),
    low: float | None = None,
    high: float | None = None,
    filled: bool = False,
    encoder: bool = False,
    later: bool = False,
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
    later : bool
        A release had no such key and worked as with its default: fingerprints leave the default out.
    """
    return field(
        default=default,
        metadata={
            "choices": choices,
            "low": low,
            "high": high,
            "filled": filled,
            "encoder": encoder,
            "later": later,
        },
    )


def settings_of_training(settings: Any) -> dict[str, Any]:
    """The settings that a fit depends on, as JSON values, without `later` keys that have their default."""
    left_out = {f.name for f in dataclasses.fields(settings) if f.metadata.get("later")}
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    values = dataclasses.asdict(settings)
    return {key: one for key, one in values.items() if key not in left_out or one != defaults[key]}
