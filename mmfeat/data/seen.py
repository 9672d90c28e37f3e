"""The last seen row key of each sample: for images that are gone, and to distinguish changed samples from new ones.

A project has one file for each modality, shared by all encoders and shards. Which features exist is known to the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.common.remembered_rows import RememberedRows

_FORMAT = "1"  # files with only `id` and `digest` are read too: they have the row keys of one encoder


def _none() -> np.ndarray:
    return np.zeros((0, 32), np.uint8)


@dataclass(frozen=True)
class _Seen:
    """Rows of the file: ids, the last key of each and the key before it, `(M, 32)` uint8; zeros if unknown."""

    ids: list[str] = field(default_factory=list)
    last: np.ndarray = field(default_factory=_none)
    before: np.ndarray = field(default_factory=_none)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of each id, `(N,)` int64; -1 if it has none."""
        asked = ids.tolist()
        if asked == self.ids:
            return np.arange(len(asked))
        at = {sample: number for number, sample in enumerate(self.ids)}
        return np.fromiter((at.get(sample, -1) for sample in asked), np.int64, len(asked))


def note_seen(path: Path, ids: np.ndarray, keys: np.ndarray, *, present: np.ndarray) -> None:
    """Record the row keys of present samples; for a changed sample, the key before it is kept too.

    Records of all other samples stay. In a folder that cannot be written, nothing is recorded.

    Parameters
    ----------
    ids : np.ndarray
        `(N,)` object.
    keys, present : np.ndarray
        `(N, 32)` uint8, and which samples are present, `(N,)` bool.
    """
    seen = _read(path)
    rows = seen.rows(ids)
    there = np.flatnonzero(present & (rows >= 0))
    changed = there[(seen.last[rows[there]] != keys[there]).any(1)]
    new = np.flatnonzero(present & (rows < 0))
    if not len(changed) and not len(new):
        return
    last, before = (np.concatenate([old, np.zeros((len(new), 32), np.uint8)]) for old in (seen.last, seen.before))
    before[rows[changed]] = last[rows[changed]]
    last[rows[changed]] = keys[changed]
    last[len(seen.last) :] = keys[new]
    _rows_of(path).write({"digest": last, "before": before}, names=[*seen.ids, *ids[new].tolist()])


def load_seen(path: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Last seen row keys `(N, 32)` uint8, and for which samples they are known, `(N,)` bool.

    A missing or damaged file, or one of another version, counts as empty.
    """
    seen = _read(path)
    return _some(seen.last, seen.rows(ids))


def load_before(path: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for the keys before their last change."""
    seen = _read(path)
    return _some(seen.before, seen.rows(ids))


def _some(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.zeros((len(rows), 32), np.uint8)
    found[rows >= 0] = keys[rows[rows >= 0]]
    return found, found.any(1)


def _rows_of(path: Path) -> RememberedRows:
    return RememberedRows(path, (_FORMAT,), {"digest": 32, "before": 32}, names="id")


def _read(path: Path) -> _Seen:
    found = _rows_of(path).read()
    return _Seen(found.names, found.columns["digest"].copy(), found.columns["before"].copy()) if found else _Seen()
