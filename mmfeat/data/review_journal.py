"""The answers that are given on the review page, review.jsonl: one line each, on the disk before it counts as saved.

The first line names the format. Each further line is an answer: `revision` (1, 2, ...), `id`, `labels` (null: the answer was
taken back), `time`, and `undo` if it undid another one. The last answer of an id counts. A killed process leaves at most an
unfinished last line, which was never confirmed and is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.files import bytes_of, flush_folder
from mmfeat.common.json_shapes import Number, Shape, misfit
from mmfeat.common.text import utc_time
from mmfeat.common.unwritable import naming
from mmfeat.data.review_answers import AnswerNames, Answers

FILE, FORMAT = "review.jsonl", 1
_HEAD = {"mmfeat": "answers of mmfeat review --serve", "format": FORMAT}
_HEAD_LINE = (json.dumps(_HEAD) + "\n").encode("ascii")
_HEAD_SHAPE: Shape = {"mmfeat": str, "format": Number(int, low=1, high=FORMAT)}
_SHAPE: Shape = {
    "revision": Number(int, low=1),
    "id": str,
    "labels": ([str], None),
    "time": str,
    "?undo": bool,
}


@dataclass(frozen=True, kw_only=True)
class SavedAnswer:
    """The present answer of a row.

    Attributes
    ----------
    labels : tuple of str or None
        None if the answer was taken back.
    revision : int
        The number of its line.
    """

    labels: tuple[str, ...] | None
    revision: int


NO_ANSWER = SavedAnswer(labels=None, revision=0)


class ReviewJournal:
    """Answers that are appended to a file; each is on the disk when `add` returns. Not thread-safe.

    Attributes
    ----------
    answers : dict of str to SavedAnswer
        By id.
    history : list of (str, tuple of str or None)
        What can be undone, oldest first: an id, and its labels before.
    revision : int
        The number of the last line.

    Raises
    ------
    DataError
        The file is not a journal, or one of its lines is damaged.
    UnwritableFile
        The file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.revision = file, 0
        self.answers: dict[str, SavedAnswer] = {}
        self.history: list[tuple[str, tuple[str, ...] | None]] = []
        lines, self._size = _lines(file)
        for values in lines:
            self._count(values)
        with naming(file):
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            os.ftruncate(self._descriptor, self._size)
            if not self._size:
                self._append(_HEAD)
                flush_folder(file.parent)

    def add(self, sample: str, labels: Sequence[str] | None, *, undo: bool = False) -> SavedAnswer:
        """Save an answer, or take it back (None).

        Raises
        ------
        UnwritableFile
            It could not be saved; the file is as before.
        """
        values: dict[str, Any] = {"revision": self.revision + 1, "id": sample}
        values |= {"labels": None if labels is None else list(labels), "time": utc_time(time.time_ns())}
        values |= {"undo": True} if undo else {}
        with naming(self.file):
            self._append(values)
        self._count(values)
        return self.answers[sample]

    def get(self, sample: str) -> SavedAnswer:
        """The present answer of a row."""
        return self.answers.get(sample, NO_ANSWER)

    def given(self) -> dict[str, list[str]]:
        """Labels by id, of the answers that were not taken back."""
        return {sample: list(one.labels) for sample, one in self.answers.items() if one.labels is not None}

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _append(self, values: dict[str, Any]) -> None:
        data = (json.dumps(values) + "\n").encode("ascii")
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _count(self, values: dict[str, Any]) -> None:
        sample, labels = values["id"], values["labels"]
        before = self.get(sample).labels
        if not values.get("undo"):
            self.history.append((sample, before))
        else:
            at = next((i for i in reversed(range(len(self.history))) if self.history[i][0] == sample), None)
            if at is not None:
                del self.history[at]
        self.revision = values["revision"]
        kept = None if labels is None else tuple(labels)
        self.answers[sample] = SavedAnswer(labels=kept, revision=self.revision)


def read_journal(file: Path, names: AnswerNames) -> Answers:
    """The answers of a journal.

    Raises
    ------
    DataError
        The file is not a journal, a line is damaged, or an id or a class is unknown.
    """
    last: dict[str, tuple[int, list[str] | None]] = {}
    for number, values in enumerate(_lines(file)[0], start=2):
        last[values["id"]] = number, values["labels"]
    given = {}
    for sample, (number, labels) in last.items():
        if labels is not None:
            where = f"{file}:{number}"
            found = names.sample(where, f"line {number}", sample)
            given[found] = names.labels(where, found, labels)
    return Answers(given=given, n_blank=len(last) - len(given))


def _lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The values of all lines but the first, and the number of bytes that hold them. An unfinished last line is left out."""
    content = bytes_of(file) or b""
    found: list[dict[str, Any]] = []
    size = 0
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):  # what follows the last line break is unfinished
        try:
            values = json.loads(line)
            why = misfit(values, _SHAPE if number > 1 else _HEAD_SHAPE)
            if not why and number > 1 and values["revision"] != number - 1:
                why = f"revision is {values['revision']}, not {number - 1}"
        except (ValueError, RecursionError) as error:
            why = one_line(error)
        if why and number == 1:
            raise DataError(f"{file}: is not a file of answers of mmfeat review --serve ({why}). Name another")
        if why:
            raise DataError(f"{file}:{number}: is damaged: {why}. Remove the line and all below it, or the file")
        found += [values] if number > 1 else []
        size += len(line) + 1
    if not size and not _HEAD_LINE.startswith(content):
        raise DataError(f"{file}: is not a file of answers of mmfeat review --serve. Name another")
    return found, size
