"""Settings of the C allocator, so that a long-running server returns freed memory to the system."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt
_MEGABYTE = 1 << 20


def give_back_freed_memory() -> bool:
    """Make glibc return freed memory; returns False for other C libraries.

    By default, glibc raises its thresholds with each large freed block and uses up to 8 arenas per core. Batches of varying
    sizes from many threads then leave holes that are never returned.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {_MMAP_THRESHOLD: _MEGABYTE, _TRIM_THRESHOLD: _MEGABYTE, _ARENA_MAX: 2}
    for key, value in settings.items():
        mallopt(key, value)
    return True
