"""What each sample's row key was when its features were last known to be there: tells a changed image from a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mmfeat.data.parquet import read_parquet, write_parquet
from mmfeat.memory import if_possible

_FORMAT = b"1"


def save_seen(path: Path, ids: np.ndarray, keys: np.ndarray, present: np.ndarray) -> None:
    """Remember `(N, 32)` row keys by id, of the rows that are `present`."""
    digests = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), int(present.sum()), [None, pa.py_buffer(np.ascontiguousarray(keys[present]))]
    )
    table = pa.table({"id": pa.array(ids[present].tolist(), pa.string()), "digest": digests})
    with if_possible():
        write_parquet(path, table, {"format": _FORMAT.decode()})


def load_seen(path: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row keys `(N, 32)` uint8 as they were, and for which rows they are known, `(N,)` bool.

    Only a shortcut: absent, damaged or of another version it knows nothing.
    """
    keys, known = np.zeros((len(ids), 32), np.uint8), np.zeros(len(ids), dtype=bool)
    try:
        table = read_parquet(path)
        if (table.schema.metadata or {}).get(b"format") != _FORMAT:
            return keys, known
        at = {sample: number for number, sample in enumerate(table["id"].to_pylist())}
        digests = np.frombuffer(b"".join(table["digest"].to_pylist()), np.uint8).reshape(table.num_rows, 32)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return keys, known
    rows = np.array([at.get(sample, -1) for sample in ids.tolist()], dtype=np.int64)
    known = rows >= 0
    keys[known] = digests[rows[known]]
    return keys, known
