"""A small schema language for JSON records: readers check a record once and can then rely on its types.

A shape is one of

- `str`, `bool`, `int`, `float` (any finite number) or `None`;
- a :class:`Number` within limits, or a :class:`Choice` of texts;
- `[shape]`: a list of values of one shape; :class:`Several`: such a list of a fixed length;
- `(shape, shape)`: a value of either shape;
- `{"key": shape, "?key": shape}`: an object with these keys, where `?` marks an optional key; other keys are ignored;
- `{str: shape}`: an object with any keys, whose values all have one shape;
- `ANYTHING`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mmfeat.common.text import shown

ANYTHING = object()
Shape = Any
_LARGEST = 2**63
_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", None: "null"}


@dataclass(frozen=True)
class Number:
    """A number within limits, both included.

    Attributes
    ----------
    kind : type
        `int` or `float`.
    above : float
        The number must be larger than this.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf

    def __str__(self) -> str:
        """Name the expected value, for messages."""
        limits = [f"above {self.above:g}"] * math.isfinite(self.above)
        limits += [f"from {self.low:g}"] * math.isfinite(self.low) + [f"to {self.high:g}"] * math.isfinite(self.high)
        return " ".join([_NAMES[self.kind], *limits])


@dataclass(frozen=True)
class Choice:
    """One of some texts, such as the names of a registry."""

    values: Collection[str]

    def __str__(self) -> str:
        """Name the expected value, for messages."""
        return f"one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Several:
    """A list of exactly `n` values of a shape."""

    n: int
    shape: Any

    def __str__(self) -> str:
        """Name the expected value, for messages."""
        return f"a list of {self.n}"


def misfit(value: Any, shape: Shape, at: str = "") -> str:
    """Describe the first value that does not fit a shape; empty if all fit.

    Example: `encoders.image.width is 'x', not a whole number`.

    Parameters
    ----------
    at : str
        The place of `value` in its record, for the message.
    """
    if isinstance(shape, tuple):
        found = [misfit(value, one, at) for one in shape]
        return "" if "" in found else max(found, key=len) if isinstance(value, dict | list) else _not(value, shape, at)
    if isinstance(shape, Several):
        fits = isinstance(value, list) and len(value) == shape.n
        return _first(shape.shape, enumerate(value), at) if fits else _not(value, shape, at)
    if isinstance(shape, list):
        return _first(shape[0], enumerate(value), at) if isinstance(value, list) else _not(value, "a list", at)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _not(value, "an object", at)
        if str in shape:
            return _first(shape[str], value.items(), at)
        return _keys(value, shape, at)
    return "" if _is(value, shape) else _not(value, shape, at)


def _keys(value: dict[str, Any], shape: dict[str, Shape], at: str) -> str:
    for name, wanted in shape.items():
        key = name.removeprefix("?")
        if key in value:
            if why := misfit(value[key], wanted, _below(at, key)):
                return why
        elif key == name:
            return f"{_below(at, key)} is missing"
    return ""


def _first(shape: Shape, items: Any, at: str) -> str:
    return next(filter(None, (misfit(value, shape, _below(at, key)) for key, value in items)), "")


def _is(value: Any, shape: Shape) -> bool:
    if shape is ANYTHING:
        return True
    if isinstance(shape, Number):
        return _is(value, shape.kind) and shape.low <= value <= shape.high and value > shape.above
    if isinstance(shape, Choice):
        return isinstance(value, str) and value in shape.values
    if shape is float:
        return _is(value, int) or (type(value) is float and math.isfinite(value))
    if shape is int:
        return type(value) is int and abs(value) < _LARGEST
    return value is None if shape is None else type(value) is shape


def _below(at: str, key: Any) -> str:
    return f"{at}.{shown(key, 40)}" if at else shown(key, 40)


def _not(value: Any, wanted: Any, at: str) -> str:
    def named(shape: Any) -> str:
        if isinstance(shape, list | dict):
            return "a list" if isinstance(shape, list) else "an object"
        return str(shape) if isinstance(shape, Number | Choice | Several | str) else _NAMES[shape]

    words = " or ".join(dict.fromkeys(map(named, wanted))) if isinstance(wanted, tuple) else named(wanted)
    found = {list: "a list", dict: "an object"}.get(type(value)) or shown(repr(value), 40)
    return f"{at or 'it'} is {found}, not {words}"
