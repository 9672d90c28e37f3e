"""How much memory Python and numpy hold while something is done."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

SETTLED = 0.1  # s


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes held at most while `work` runs, beside those held before it.

    CPython 3.11 crashes if tracing stops while another thread enters or leaves Python. pyarrow's threads still do so for
    a moment after they have delivered their result.
    """
    time.sleep(SETTLED)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        time.sleep(SETTLED)
        tracemalloc.stop()
