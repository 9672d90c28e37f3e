"""What a setting of mmfeat.toml may be: the fields of the dataclasses that hold them."""

from __future__ import annotations

from dataclasses import field
from typing import Any

LOSSES = ("bce", "focal", "asymmetric")
MAX_LR = 10.0


def setting(
    default: Any,
    *,
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    high: float | None = None,
    filled: bool = False,
    encoder: bool = False,
) -> Any:
    """A dataclass field with the values it may take: one of `choices`, a number from `low` to `high`, not empty (`filled`),
    the name of an `encoder`, or empty.
    """
    return field(
        default=default,
        metadata={"choices": choices, "low": low, "high": high, "filled": filled, "encoder": encoder},
    )
