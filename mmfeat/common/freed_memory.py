"""Memory that this process has freed goes back to the system, where its C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt
_MEGABYTE = 1 << 20


def return_freed_memory() -> None:
    """Return now what is free, for a command that goes on: arrays that come and go leave gaps between longer-lived ones."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


def return_memory_when_freed() -> bool:
    """Keep glibc from holding freed memory, for a process that serves for days. Returns whether this is glibc.

    By default glibc raises its thresholds with each large block that is freed, and has up to 8 arenas for each core:
    batches of different sizes, from many threads, then leave gaps that are never returned.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {_MMAP_THRESHOLD: _MEGABYTE, _TRIM_THRESHOLD: _MEGABYTE, _ARENA_MAX: 2}
    for key, value in settings.items():
        mallopt(key, value)
    return True
