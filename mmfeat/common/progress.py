"""Progress of long work on stderr: a bar with rate and time left on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_SECONDS = (10.0, 60.0)  # time between two plain lines: in the first minute, and later

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_COUNTER: ContextVar[Progress | None] = ContextVar("counter", default=None)
_RELAY: ContextVar[Relay | None] = ContextVar("relay", default=None)


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Silence `progress` and `say` inside the block; with `on` False the block has no effect."""
    token = _QUIET.set(_QUIET.get() or on)
    try:
        yield
    finally:
        _QUIET.reset(token)


@contextmanager
def counting_into(counter: Progress) -> Iterator[None]:
    """Inside the block, `counter` counts the rows of all loops; nothing else is shown."""
    token = _COUNTER.set(counter)
    try:
        with quiet():
            yield
    finally:
        _COUNTER.reset(token)


@contextmanager
def relayed_by(relay: Relay) -> Iterator[None]:
    """Inside the block, `relay` receives the progress of all loops and the lines for the user; nothing is shown here."""
    token = _RELAY.set(relay)
    try:
        yield
    finally:
        _RELAY.reset(token)


class NoProgress:
    """A progress counter without output."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Do nothing."""


class Progress(Protocol):
    """Counts the finished units of a long loop."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done; `note` is shown beside the count."""


class Relay(Progress, Protocol):
    """Takes progress and lines to another process."""

    def say(self, text: str) -> None:
        """Print a line there."""


class PlainProgress:
    """Prints a line from time to time; used if stderr is a file or a pipe."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done; `note` is shown beside the count."""
        self.done += n
        now = time.monotonic()
        if now - self.last >= PLAIN_SECONDS[now - self.start > PLAIN_SECONDS[1]]:
            self.last = now
            rate = self.done / max(now - self.start, 1e-9)
            left = f", {_speed(rate)}, {clock((self.total - self.done) / rate)} left" if rate else ""
            line = f"{self.description}: {self.done:,} of {self.total:,} {self.unit}{left}"
            print(f"{line} {note}".rstrip(), file=sys.stderr, flush=True)


class BarProgress:
    """A progress bar of rich."""

    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done; `note` is shown beside the count."""
        self.bar.update(self.task, advance=n, note=note)


@contextmanager
def progress(description: str, total: int, unit: str = "rows") -> Iterator[Progress]:
    """Show the progress of a loop of `total` units; call `advance(n)` on the yielded counter."""
    if _QUIET.get():
        counter = _COUNTER.get() if unit == "rows" else None
        yield NoProgress() if counter is None else counter
        return
    if (relay := _RELAY.get()) is not None:
        yield relay
        return
    if not sys.stderr.isatty():
        yield PlainProgress(description, total, unit)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_speed(task.finished_speed or task.speed or 0.0))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield BarProgress(bar, bar.add_task(escape(description), total=total, note=""))


def _speed(rate: float) -> str:
    """Units per second, or the time per unit if it exceeds a second."""
    return f"{rate:,.0f}/s" if rate >= 1 or not rate else f"{clock(1 / rate)} each"


def clock(seconds: float) -> str:
    """Seconds for people: `0.4 s`, `12 s`, `3:05`, `2:03:05`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(text: str) -> None:
    """Print a line to stderr, unless silenced by :func:`quiet`."""
    if _QUIET.get():
        return
    if (relay := _RELAY.get()) is not None:
        relay.say(text)
    else:
        print(text, file=sys.stderr, flush=True)
