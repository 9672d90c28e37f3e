"""The last seen row key of each sample: for images that are gone, and to distinguish changed samples from new ones.

A project has one file for each modality, shared by all encoders and shards. Which features exist is known to the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmfeat.common.remembered import if_possible
from mmfeat.common.sealed_parquet import read_parquet, write_parquet

_FORMAT = b"1"  # files with only `id` and `digest` are read too: they hold one encoder's rows


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
    with if_possible():
        _write(path, [*seen.ids, *ids[new].tolist()], last, before=before)


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


def _read(path: Path) -> _Seen:
    try:
        table = read_parquet(path)
        if (table.schema.metadata or {}).get(b"format") != _FORMAT:
            return _Seen()
        ids, last = table["id"].to_pylist(), _matrix(table["digest"])
        before = _matrix(table["before"]) if "before" in table.column_names else np.zeros_like(last)
        return _Seen(ids, last, before) if len(ids) == len(last) == len(before) else _Seen()
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return _Seen()


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    values = column.cast(pa.binary(32)).combine_chunks()
    return np.frombuffer(values.buffers()[1], np.uint8).reshape(-1, 32)[values.offset :][: len(values)]


def _write(path: Path, ids: list[str], last: np.ndarray, *, before: np.ndarray) -> None:
    columns = {"digest": last, "before": before}
    arrays = {
        name: pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), len(ids), [None, pa.py_buffer(np.ascontiguousarray(keys))]
        )
        for name, keys in columns.items()
    }
    table = pa.table({"id": pa.array(ids, pa.string()), **arrays})
    write_parquet(path, table, {"format": _FORMAT.decode()}, compression="none", use_dictionary=False)
