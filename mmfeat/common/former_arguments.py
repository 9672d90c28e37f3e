"""Arguments that version 0.1 took by position or by another name: they work for one more version, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def former_arguments(keep: int, *positional: str, **renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: accept the call signature of version 0.1, with a DeprecationWarning.

    Parameters
    ----------
    keep : int
        Number of arguments that are still positional.
    positional : str
        Names of the arguments that version 0.1 also took by position, in their order.
    renamed : str
        Former argument name to present name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            moved = dict(zip(positional, args[keep:], strict=False)) if len(args) > keep else {}
            moved |= {renamed[name]: kwargs.pop(name) for name in [*kwargs] if name in renamed}
            if moved and len(args) <= keep + len(positional):
                written = ", ".join(f"{name}=" for name in moved)
                warnings.warn(
                    f"{function.__name__}() takes {written} by keyword. The former call ends with version 0.3",
                    DeprecationWarning,
                    stacklevel=2,
                )
                args, kwargs = args[:keep], {**kwargs, **moved}
            return function(*args, **kwargs)

        return call

    return decorate
