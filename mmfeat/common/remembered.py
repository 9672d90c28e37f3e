"""Values that are remembered so that they are not computed again (`.mmfeat/`, the user's cache folder): one rule for all.

- A value is kept with what it was computed from: a JSON value, and the stamps (size, time, inode) of the files that it
  depends on. It is used only while both are unchanged.
- A file that was written within the last tick of the clock may be written again in the same tick, so nothing that depends
  on it is kept.
- The file is sealed. Absent, damaged or in another format it holds nothing.
- A folder that cannot be written costs time and stops no command. The file can be deleted at any time.

:class:`Remembered` keeps values by name, :class:`mmfeat.common.remembered_rows.RememberedRows` a row for each sample.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmfeat.common.json_shapes import Shape, misfit
from mmfeat.common.seals import read_values, write_sealed

Stamp = tuple[int, int, int]  # size, mtime in ns, inode
Stamps = dict[str, list[list[Any]]]  # path to the name and stamp of each file there
_FORMAT = 1
_TICK = 50_000_000  # ns: a file may be written twice within one tick of the clock that gives its time


class Remembered:
    """Values by name in one sealed JSON file.

    Parameters
    ----------
    file : Path
        It is read when the first value is asked for.
    most : int, optional
        The oldest values go where there are more than this.
    """

    def __init__(self, file: Path, most: int | None = None) -> None:
        self.file, self.most = file, most
        self._entries: dict[str, Any] | None = None
        self._changed: dict[str, Any] = {}  # None for a name that was forgotten

    def recall(self, name: str, made_from: Any = None) -> Any:
        """The value of a name, None where none is kept or what it was computed from has changed.

        Parameters
        ----------
        made_from : optional
            The JSON value that was given to `remember`.
        """
        if self._entries is None:
            self._entries = self._read()
        entry = self._entries.get(name)
        if entry is None or entry["made_from"] != _plain(made_from):
            return None
        return entry["value"] if stamps_of(entry["files"]) == entry["files"] else None

    def remember(self, name: str, value: Any, made_from: Any = None, *, files: Stamps | None = None) -> None:
        """Keep a value until `save`.

        Parameters
        ----------
        made_from : optional
            A JSON value: all that the value depends on, besides files.
        files : optional
            What `stamps_of` gave for the files that it depends on.
        """
        files = files or {}
        if all(is_settled(stamp[1:]) for found in files.values() for stamp in found):
            self._put(name, _plain({"made_from": made_from, "files": files, "value": value}))

    def forget(self, name: str) -> None:
        """Remember no value of this name."""
        if self._entries is None:
            self._entries = self._read()
        if name in self._entries:
            self._put(name, None)

    def save(self) -> None:
        """Write what has changed, beside what other processes have written meanwhile."""
        if not self._changed:
            return
        entries = self._read()
        for name, entry in self._changed.items():
            entries.pop(name, None)  # the newest come last
            if entry is not None:
                entries[name] = entry
        names = list(entries)[-self.most :] if self.most else list(entries)
        self._entries, self._changed = {name: entries[name] for name in names}, {}
        remember(self.file, {"remembered": _FORMAT, "values": self._entries})

    def _put(self, name: str, entry: dict[str, Any] | None) -> None:
        if self._entries is None:
            self._entries = self._read()
        self._changed[name] = entry
        self._entries.pop(name, None)
        if entry is not None:
            self._entries[name] = entry

    def _read(self) -> dict[str, Any]:
        found = recall(self.file)
        return dict(found["values"]) if found.get("remembered") == _FORMAT else {}


def stamp_of(stat: os.stat_result) -> Stamp:
    """What tells whether a file may have changed."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def stamps_of(paths: Iterable[Path | str]) -> Stamps:
    """The stamps of files, and of all files in folders and below; none for a path where nothing is."""
    found: Stamps = {}
    for path in map(Path, paths):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stamps = []
        for file in files:
            with contextlib.suppress(OSError):
                stat = file.stat()
                if file.is_file():
                    stamps.append([file.relative_to(path).as_posix(), *stamp_of(stat)])
        found[str(path)] = stamps
    return found


def is_settled(stamp: Iterable[int]) -> bool:
    """Whether a file with this stamp would have another one if it were written again now."""
    _, written, _ = stamp
    return time.time_ns() - written > _TICK


def recall(path: Path, shape: Shape = None) -> dict[str, Any]:
    """Read the JSON values that :func:`remember` wrote; nothing where the file is absent, damaged or cannot be read.

    Parameters
    ----------
    shape : optional
        What a file that was made before seals must hold, as :func:`mmfeat.common.json_shapes.misfit` takes it; when None,
        such a file counts for nothing.
    """
    try:
        values, sealed = read_values(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return values if sealed or (shape is not None and not misfit(values, shape)) else {}


def remember(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values for :func:`recall`, where the folder can be written."""
    with if_possible():
        write_sealed(path, values)


@contextlib.contextmanager
def if_possible() -> Iterator[None]:
    """Run a block that writes or removes what is only remembered; a folder that cannot be written stops nothing."""
    with contextlib.suppress(OSError):
        yield


def _plain(value: Any) -> Any:
    """A JSON value as it is read again: lists for tuples."""
    return json.loads(json.dumps(value))
