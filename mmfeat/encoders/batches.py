"""Batches of samples on their way through an encoder: read and prepared in threads ahead of the one who asks."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmfeat.common.errors import one_line
from mmfeat.common.machine import prepared_bytes, usable_cores

_NICENESS = 10  # of the threads that prepare, on a scale to 19


@dataclass(frozen=True)
class Batch:
    """Rows that could be prepared, what an encoder takes of them (None where there are none), and why the others could not.

    Attributes
    ----------
    undecodable : dict[int, str]
        Row to reason: its bytes were read and are no sample.
    unread : dict[int, str]
        Row to reason: its bytes could not be had, or are not the ones that were asked for.
    """

    rows: np.ndarray
    inputs: Any
    undecodable: dict[int, str]
    unread: dict[int, str]


class Encoded(NamedTuple):
    """What an encoder gives for B samples, on the CPU.

    Attributes
    ----------
    embeddings : np.ndarray
        `(B, D)` float32.
    tokens : np.ndarray or None
        `(B, T, d)` float32, where they were asked for.
    lengths : np.ndarray or None
        `(B,)`: how many of the T tokens each sample has.
    """

    embeddings: np.ndarray
    tokens: np.ndarray | None = None
    lengths: np.ndarray | None = None


class UnreadSample(Exception):
    """Raised by a reader where a sample's bytes cannot be had now; says nothing about the bytes."""


class UndecodableSample(Exception):
    """Raised by an encoder where a sample's bytes are no image; its message is the reason, fit to be recorded."""

    def __init__(self, error: Exception) -> None:
        reason = _ADDRESS.sub("", one_line(error)).strip()
        super().__init__(f"{type(error).__name__}: {reason}")


_ADDRESS = re.compile(r"\s*<[\w.]+ object at 0x[0-9a-f]+>")


def prepared_batches(
    groups: Iterable[np.ndarray],
    load: Callable[[int], Any],
    collate: Callable[[list[Any]], Any],
    workers: int | None = None,
) -> Iterator[Batch]:
    """Prepare groups of rows in threads (decoding and resizing release the interpreter's lock), in their order.

    Parameters
    ----------
    groups : iterable of (n,) int arrays
        The rows of each batch.
    load : callable
        Row to prepared sample. :class:`UnreadSample` means that the bytes could not be had, :class:`UndecodableSample`
        that they are no sample; any other exception ends the iteration.
    workers : int, optional
        Threads; as many as this process has cores, at least 2, when None. Fewer batches are prepared ahead where they
        would take more memory than :func:`mmfeat.common.machine.prepared_bytes`.
    """
    workers, most, largest = workers or max(2, usable_cores()), prepared_bytes(), 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="mmfeat-prepare", initializer=yield_to_others)
    waiting: deque[Future[Batch]] = deque()
    pending = iter(groups)
    try:
        for group in pending:
            waiting.append(pool.submit(_prepare, group, load, collate))
            ahead = workers + 1
            if largest * ahead > most:
                ahead = max(1, most // largest)
            elif not largest:
                ahead = min(2, ahead)  # until it is known how large a batch is
            while len(waiting) > ahead:
                batch = waiting.popleft().result()
                largest = max(largest, n_bytes(batch.inputs))
                yield batch
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def n_bytes(inputs: Any) -> int:
    """Bytes of what an encoder takes: tensors and arrays, alone or in lists and dicts."""
    if isinstance(inputs, dict):
        return sum(map(n_bytes, inputs.values()))
    if isinstance(inputs, (list, tuple)):
        return sum(map(n_bytes, inputs))
    return getattr(inputs, "nbytes", 0)


def yield_to_others() -> None:
    """Give way to the encoder's threads: where one of those waits for a core, all the others wait for it."""
    with contextlib.suppress(AttributeError, OSError):  # a priority of threads is Linux's own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _prepare(group: np.ndarray, load: Callable[[int], Any], collate: Callable[[list[Any]], Any]) -> Batch:
    rows, prepared, undecodable, unread = [], [], {}, {}
    for row in group.tolist():
        try:
            prepared.append(load(row))
            rows.append(row)
        except UnreadSample as error:
            unread[row] = one_line(error)
        except UndecodableSample as error:
            undecodable[row] = str(error)
    inputs = collate(prepared) if prepared else None
    return Batch(np.array(rows, dtype=np.int64), inputs, undecodable, unread)


def groups_of(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows cut into groups of `size`, in their order."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
