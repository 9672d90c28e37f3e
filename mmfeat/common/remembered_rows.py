"""Remembered values with a row for each sample, in one sealed Parquet file; the rule is that of `remembered`."""

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
    """What a file holds.

    Attributes
    ----------
    names : list of str
        The column of texts; empty where the file has none.
    columns : dict of str to np.ndarray
        `(M, width)` uint8 by name; zeros for a column that the file lacks.
    state : str
        What all rows were computed from, as it was given to `write`.
    format : str
    """

    names: list[str]
    columns: dict[str, np.ndarray]
    state: str
    format: str


class RememberedRows:
    """Rows of bytes in one file.

    Parameters
    ----------
    file : Path
    formats : sequence of str
        The formats that are read; the first is written.
    widths : dict of str to int
        Bytes a row has in each column.
    names : str
        The column of texts, where there is one.
    """

    def __init__(self, file: Path, formats: Sequence[str], widths: dict[str, int], *, names: str = "") -> None:
        self.file, self.formats, self.widths, self.names = file, tuple(formats), widths, names

    def read(self) -> Rows | None:
        """What the file holds; None where it is absent, damaged or in another format."""
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
        """Replace what the file holds, where the folder can be written.

        Parameters
        ----------
        columns : dict of str to np.ndarray
            `(M, width)` uint8 by name.
        state : str
            What all rows were computed from.
        """
        arrays: dict[str, pa.Array] = {self.names: pa.array(list(names), pa.string())} if self.names else {}
        for name, values in columns.items():
            data = pa.py_buffer(np.ascontiguousarray(values))
            arrays[name] = pa.Array.from_buffers(pa.binary(self.widths[name]), len(values), [None, data])
        metadata = {"format": self.formats[0], "state": state}
        with if_possible():
            write_parquet(self.file, pa.table(arrays), metadata, compression="none", use_dictionary=False)

    def forget(self) -> None:
        """Remove the file, where the folder can be written."""
        with if_possible():
            self.file.unlink(missing_ok=True)


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of `width` bytes a row as `(M, width)` uint8."""
    values = column.cast(pa.binary(width)).combine_chunks()
    if values.null_count:
        raise ValueError("a row without a value")
    return np.frombuffer(values.buffers()[1], np.uint8).reshape(-1, width)[values.offset :][: len(values)]
