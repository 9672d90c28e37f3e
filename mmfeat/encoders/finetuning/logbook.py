"""TensorBoard files of a fine-tuning, if the tensorboard package is installed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfeat.common.progress import say


class Logbook:
    """Writes scalars for TensorBoard, and continues the files of an interrupted fine-tuning.

    If the disk refuses a write, logging stops and the fine-tuning continues. tensorboard's own writer is not used, because
    its thread prints a traceback when the disk is full.

    Parameters
    ----------
    folder : Path or None
        The folder of the files; None to write nothing.
    step : int
        The step from which an interrupted fine-tuning is resumed; TensorBoard ignores later values of the first attempt.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self._records, self._folder = None, folder
        if folder is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        with self._going_on():
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{time.time_ns() % 10**9:09d}.{os.getpid()}"
            self._records = RecordWriter((folder / name).open("wb"))
        self._add(file_version="brain.Event:2")
        if step:
            self._add(step=step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars by name, such as `train/loss`."""
        if self._records:
            from tensorboard.compat.proto.summary_pb2 import Summary

            values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars.items()]
            self._add(step=step, summary=Summary(value=values))

    def close(self) -> None:
        """Write everything to disk."""
        if self._records:
            with self._going_on():
                self._records.close()

    def _add(self, **what: Any) -> None:
        """Write one event and flush it, so that TensorBoard shows it at once."""
        if self._records:
            from tensorboard.compat.proto.event_pb2 import Event

            with self._going_on():
                self._records.write(Event(wall_time=time.time(), **what).SerializeToString())
                self._records.flush()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._records = None
            why = error.strerror or error
            say(f"{self._folder}: cannot be written: {why}. The fine-tuning continues without TensorBoard files")
