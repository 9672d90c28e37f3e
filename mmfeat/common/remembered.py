"""Caches on disk (in `.mmfeat/` and the user's cache folder), which all follow the same rules.

- A cached value is stored with its inputs: a JSON value, and the stamps (size, time, inode) of the files that it depends
  on. It is used only while both are unchanged.
- A file may be written twice within one tick of the clock without a visible change of its stamp. Values that depend on a
  file written within the last tick are therefore not cached.
- A cache file is sealed. A missing or damaged file, or one in another format, counts as empty.
- If the folder is read-only, nothing is cached and commands still work. Cache files can be deleted at any time.

:class:`Remembered` caches values by name, :class:`mmfeat.common.remembered_rows.RememberedRows` one row per sample.
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
Stamps = dict[str, list[list[Any]]]  # path to [name, size, mtime, inode] of each file there
_FORMAT = 1
_TICK = 50_000_000  # ns: a file may be written twice within one tick of the clock that gives its time


class Remembered:
    """Cached values by name, in one sealed JSON file.

    Parameters
    ----------
    file : Path
        The cache file; read at the first access.
    most : int, optional
        Highest number of values; the oldest ones are dropped.
    """

    def __init__(self, file: Path, most: int | None = None) -> None:
        self.file, self.most = file, most
        self._entries: dict[str, Any] | None = None
        self._changed: dict[str, Any] = {}  # None for a forgotten name

    def recall(self, name: str, made_from: Any = None) -> Any:
        """The cached value of a name; None if there is no value or its inputs have changed.

        Parameters
        ----------
        made_from : optional
            The JSON value that was passed to `remember`.
        """
        if self._entries is None:
            self._entries = self._read()
        entry = self._entries.get(name)
        if entry is None or entry["made_from"] != _plain(made_from):
            return None
        return entry["value"] if stamps_of(entry["files"]) == entry["files"] else None

    def remember(self, name: str, value: Any, made_from: Any = None, *, files: Stamps | None = None) -> None:
        """Cache a value; `save` writes it.

        Parameters
        ----------
        made_from : optional
            A JSON value: everything that the value depends on, except files.
        files : optional
            The stamps of the files that it depends on, from :func:`stamps_of`.
        """
        files = files or {}
        if all(is_settled(stamp[1:]) for stamps in files.values() for stamp in stamps):
            self._put(name, _plain({"made_from": made_from, "files": files, "value": value}))

    def forget(self, name: str) -> None:
        """Drop the cached value of a name."""
        if self._entries is None:
            self._entries = self._read()
        if name in self._entries:
            self._put(name, None)

    def save(self) -> None:
        """Write the changes, merged with the values that other processes have written since."""
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
        content = recall(self.file)
        return dict(content["values"]) if content.get("remembered") == _FORMAT else {}


def stamp_of(stat: os.stat_result) -> Stamp:
    """Size, time and inode of a file; a difference means that the file may have changed."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def stamps_of(paths: Iterable[Path | str]) -> Stamps:
    """The stamps of files, and of all files below folders; an empty list for a path that does not exist."""
    stamps_by_path: Stamps = {}
    for path in map(Path, paths):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stamps = []
        for file in files:
            with contextlib.suppress(OSError):
                stat = file.stat()
                if file.is_file():
                    stamps.append([file.relative_to(path).as_posix(), *stamp_of(stat)])
        stamps_by_path[str(path)] = stamps
    return stamps_by_path


def is_settled(stamp: Iterable[int]) -> bool:
    """Whether a file with this stamp would get a different one if it were written again now."""
    _, written, _ = stamp
    return time.time_ns() - written > _TICK


def recall(path: Path, shape: Shape = None) -> dict[str, Any]:
    """Read the JSON values that :func:`remember` wrote; empty if the file is missing, damaged or unreadable.

    Parameters
    ----------
    shape : optional
        The shape (:mod:`mmfeat.common.json_shapes`) that an unsealed file must have; version 0.1.0 wrote no seals. If None,
        unsealed files are ignored.
    """
    try:
        values, sealed = read_values(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return values if sealed or (shape is not None and not misfit(values, shape)) else {}


def remember(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values for :func:`recall`; does nothing if the folder is not writable."""
    with if_possible():
        write_sealed(path, values)


@contextlib.contextmanager
def if_possible() -> Iterator[None]:
    """Run a block that writes or removes a cache, and ignore the error of a folder that is not writable."""
    with contextlib.suppress(OSError):
        yield


def _plain(value: Any) -> Any:
    """A value as JSON returns it: tuples become lists."""
    return json.loads(json.dumps(value))
