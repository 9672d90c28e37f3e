"""Gathers concurrent requests into batches: prepared in threads, run together, answered individually."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mmfeat.common.machine import usable_cores
from mmfeat.encoders.batches import yield_to_others

MAX_WAIT = 0.01  # seconds that a batch waits for items that are being prepared


class Gatherer:
    """Any thread may `submit` items; a thread of this object calls `run` on batches of them.

    Parameters
    ----------
    prepare : callable
        From a submitted object to an item; called in several threads.
    run : callable
        From a list of items to as many answers. If it fails, its items are run one by one.
    max_batch : int
        Most items in a batch.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        max_batch: int,
        max_wait: float = MAX_WAIT,
    ) -> None:
        self._prepare, self._run, self._max_batch, self._max_wait = prepare, run, max_batch, max_wait
        self._ready: deque[tuple[Any, Future]] = deque()
        self._preparing = 0
        self._closing = False
        self._changed = threading.Condition()
        workers = max(2, usable_cores())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mmfeat-prepare", initializer=yield_to_others)
        self._thread = threading.Thread(target=self._work, name="mmfeat-run", daemon=True)
        self._thread.start()

    def submit(self, asked: Any) -> Future:
        """The future answer, or the item's error as its exception. Answers that are cancelled in time are not computed."""
        answer: Future = Future()
        with self._changed:
            self._preparing += 1
        try:
            self._pool.submit(self._make_ready, asked, answer)
        except RuntimeError:  # closed
            self._one_less()
            raise
        return answer

    def close(self) -> None:
        """Answer all submitted items, then end the threads."""
        self._pool.shutdown(wait=True)
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _make_ready(self, asked: Any, answer: Future) -> None:
        if answer.cancelled():
            self._one_less()
            return
        try:
            item = self._prepare(asked)
        except BaseException as error:  # the error is the answer
            self._one_less()
            if answer.set_running_or_notify_cancel():
                _fail(answer, error)
            del answer  # otherwise this frame, which the error references, keeps both alive
            return
        self._one_less((item, answer))

    def _one_less(self, *ready: tuple[Any, Future]) -> None:
        with self._changed:
            self._preparing -= 1
            self._ready.extend(ready)
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._gather():
            self._answer(batch)

    def _gather(self) -> list[tuple[Any, Future]]:
        """Up to a batch of prepared items that are still wanted; empty at the end. A single item does not wait."""
        batch: list[tuple[Any, Future]] = []
        with self._changed:
            while not batch and self._changed.wait_for(lambda: self._ready or self._closing) and self._ready:
                until = time.monotonic() + self._max_wait
                while len(self._ready) < self._max_batch and self._preparing:
                    left = until - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
                while self._ready and len(batch) < self._max_batch:
                    item, answer = self._ready.popleft()
                    if answer.set_running_or_notify_cancel():
                        batch.append((item, answer))
        return batch

    def _answer(self, batch: list[tuple[Any, Future]]) -> None:
        try:
            answers = list(self._run([item for item, _ in batch]))
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} items")
        except BaseException as error:
            if len(batch) == 1:
                _fail(batch.pop()[1], error)
                return
            for one in batch:  # so that an item's failure does not affect the others
                self._answer([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


def _fail(answer: Future, error: BaseException) -> None:
    """Set an error as the answer, without references to its frames, which may hold whole images."""
    traceback.clear_frames(error.__traceback__)
    answer.set_exception(error)
