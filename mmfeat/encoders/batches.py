"""Batches of samples for an encoder, read and prepared in background threads."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mmfeat.common.errors import one_line
from mmfeat.common.machine import prepared_bytes, usable_cores

MEASURED_ON = 64  # samples that speed and engines are measured on
R = TypeVar("R")
_NICENESS = 10  # of the preparing threads; the scale ends at 19, the lowest priority


@dataclass(frozen=True)
class Batch:
    """A batch of prepared rows, with the reasons why other rows are not in it.

    Attributes
    ----------
    rows : np.ndarray
        `(B,)` int64 row numbers.
    inputs : Any
        The encoder's inputs for these rows; None without rows.
    undecodable : dict[int, str]
        Row to reason, for samples whose bytes cannot be decoded.
    unread : dict[int, str]
        Row to reason, for samples whose bytes cannot be read or have changed.
    """

    rows: np.ndarray
    inputs: Any
    undecodable: dict[int, str]
    unread: dict[int, str]


class Encoded(NamedTuple):
    """The output of an encoder for B samples, on the CPU.

    Attributes
    ----------
    embeddings : np.ndarray
        `(B, D)` float32.
    tokens : np.ndarray or None
        `(B, T, d)` float32; None unless requested.
    lengths : np.ndarray or None
        `(B,)`: the number of tokens of each sample, at most T.
    """

    embeddings: np.ndarray
    tokens: np.ndarray | None = None
    lengths: np.ndarray | None = None


class UnreadSample(Exception):
    """A sample's bytes cannot be read at present. Nothing is recorded about the sample."""


class UndecodableSample(Exception):
    """A sample's bytes cannot be decoded. The message is the reason, which the store records."""

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
    """Prepare groups of rows in threads, and yield them in order. Decoding and resizing release Python's global lock.

    Parameters
    ----------
    groups : iterable of (n,) int arrays
        The rows of each batch.
    load : callable
        Row to prepared sample. It raises :class:`UnreadSample` if the bytes cannot be read, and :class:`UndecodableSample`
        if they cannot be decoded. Any other exception ends the iteration.
    collate : callable
        Prepared samples to the encoder's inputs.
    workers : int, optional
        Number of threads; by default the number of usable cores, at least 2. The number of waiting batches is limited by
        :func:`mmfeat.common.machine.prepared_bytes`.
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
                ahead = min(2, ahead)  # until the size of a batch is known
            while len(waiting) > ahead:
                batch = waiting.popleft().result()
                largest = max(largest, n_bytes(batch.inputs))
                yield batch
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_threads(batches: Iterable[Batch], work: Callable[[Batch], R], at_once: int) -> Iterator[tuple[Batch, R]]:
    """The batches in their order, each with the result of some work on it, `at_once` of them at the same time."""
    if at_once == 1:
        for batch in batches:
            yield batch, work(batch)
        return
    waiting: deque[tuple[Batch, Future[R]]] = deque()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="mmfeat-encode")
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(work, batch)))
            if len(waiting) > at_once:  # one waits, so that no thread does
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def n_bytes(inputs: Any) -> int:
    """Size in bytes of tensors and arrays, also within lists and dicts."""
    if isinstance(inputs, dict):
        return sum(map(n_bytes, inputs.values()))
    if isinstance(inputs, (list, tuple)):
        return sum(map(n_bytes, inputs))
    return getattr(inputs, "nbytes", 0)


def yield_to_others() -> None:
    """Lower this thread's priority, because one delayed thread of the encoder's arithmetic delays all of them."""
    with contextlib.suppress(AttributeError, OSError):  # only Linux has thread priorities
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


def some_prepared(rows: np.ndarray, load: Callable[[int], Any]) -> dict[int, Any]:
    """Prepared samples of up to :data:`MEASURED_ON` rows, by row, spread over all; those that cannot be read are left out.

    Parameters
    ----------
    load : callable
        Row to prepared sample, as for :func:`prepared_batches`.
    """
    prepared = {}
    for row in rows[np.linspace(0, len(rows) - 1, min(MEASURED_ON, len(rows)), dtype=int)].tolist():
        with contextlib.suppress(UnreadSample, UndecodableSample):  # whoever encodes them reports the error
            prepared[row] = load(row)
    return prepared


def groups_of(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Split rows into consecutive groups of `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
