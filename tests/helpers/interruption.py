"""A process that is killed between two renamings, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """As SIGKILL: nothing of ours goes on."""


class DyingRename:
    """In place of `os.rename` or `os.replace`: it kills the process at the call after so many."""

    def __init__(self, real: Callable[..., None], after: int) -> None:
        self.real, self.after = real, after
        self.n_calls = 0

    def __call__(self, *args: Any) -> None:
        self.n_calls += 1
        if self.n_calls > self.after:
            raise Killed
        self.real(*args)
