"""Caches with one row per sample, in a sealed Parquet file; the rules are those of :mod:`mmfeat.common.remembered`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmfeat.common.remembered import if_possible
from mmfeat.common.sealed_parquet import read_parquet, write_parquet


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The content of a cache file of M rows.

    Attributes
    ----------
    names : list of str
        The text column; empty if the file has none.
    columns : dict of str to np.ndarray
        Column name to `(M, width)` uint8; zeros for a column that the file lacks.
    state : str
        The inputs of all rows, as passed to `write`.
    format : str
        The file's format.
    """

    names: list[str]
    columns: dict[str, np.ndarray]
    state: str
    format: str


class RememberedRows:
    """A cache file with fixed-width byte columns.

    Parameters
    ----------
    file : Path
        The cache file.
    formats : sequence of str
        The formats that can be read; the first one is written.
    widths : dict of str to int
        Column name to bytes per row.
    names : str
        The name of the text column; empty for none.
    """

    def __init__(self, file: Path, formats: Sequence[str], widths: dict[str, int], *, names: str = "") -> None:
        self.file, self.formats, self.widths, self.names = file, tuple(formats), widths, names

    def read(self) -> Rows | None:
        """Read the file; None if it is missing, damaged or in another format."""
        try:
            table = read_parquet(self.file)
            metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            if metadata["format"] not in self.formats:
                return None
            columns = {name: np.zeros((len(table), width), np.uint8) for name, width in self.widths.items()}
            for name in columns.keys() & set(table.column_names):
                columns[name] = _matrix(table[name], self.widths[name])
            names = table[self.names].to_pylist() if self.names else []
            found = Rows(names=names, columns=columns, state=metadata.get("state", ""), format=metadata["format"])
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
            return None
        return found

    def write(self, columns: dict[str, np.ndarray], *, names: Sequence[str] = (), state: str = "") -> None:
        """Replace the file's content; does nothing if the folder is not writable.

        Parameters
        ----------
        columns : dict of str to np.ndarray
            Column name to `(M, width)` uint8.
        names : sequence of str
            The text column.
        state : str
            The inputs of all rows.
        """
        arrays: dict[str, pa.Array] = {self.names: pa.array(list(names), pa.string())} if self.names else {}
        for name, values in columns.items():
            data = pa.py_buffer(np.ascontiguousarray(values))
            arrays[name] = pa.Array.from_buffers(pa.binary(self.widths[name]), len(values), [None, data])
        metadata = {"format": self.formats[0], "state": state}
        with if_possible():
            write_parquet(self.file, pa.table(arrays), metadata, compression="none", use_dictionary=False)

    def forget(self) -> None:
        """Remove the file; does nothing if the folder is not writable."""
        with if_possible():
            self.file.unlink(missing_ok=True)


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of `width` bytes a row as `(M, width)` uint8."""
    values = column.cast(pa.binary(width)).combine_chunks()
    if values.null_count:
        raise ValueError("a row without a value")
    return np.frombuffer(values.buffers()[1], np.uint8).reshape(-1, width)[values.offset :][: len(values)]
