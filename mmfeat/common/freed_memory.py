"""Returns freed memory to the operating system; works with glibc and does nothing elsewhere."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt
_MEGABYTE = 1 << 20


def return_freed_memory() -> None:
    """Return free memory now. Temporary arrays leave gaps between longer-lived ones, which glibc keeps by default."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


def return_memory_when_freed() -> bool:
    """Make glibc return memory as soon as it is freed, for a server that runs for days.

    By default glibc raises its thresholds after each large block that is freed, and uses up to 8 arenas per core. Batches
    of different sizes from many threads then leave gaps that are never returned.

    Returns
    -------
    bool
        Whether the C library is glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {_MMAP_THRESHOLD: _MEGABYTE, _TRIM_THRESHOLD: _MEGABYTE, _ARENA_MAX: 2}
    for key, value in settings.items():
        mallopt(key, value)
    return True
