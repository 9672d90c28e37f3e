"""Sealed Parquet files: written atomically, and checked when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmfeat.common.files import atomic_path
from mmfeat.common.seals import METADATA, check_seal, seal_file

_DAMAGE = (pa.ArrowException, OSError, MemoryError, RuntimeError)  # a file without a seal may contain anything


def write_parquet(path: Path, table: pa.Table, metadata: dict[str, str], **options: Any) -> None:
    """Write a table with a seal, atomically.

    Parameters
    ----------
    metadata : dict of str to str
        The file's metadata, which replaces that of the table.
    options
        Arguments of :func:`pyarrow.parquet.write_table`.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata({**metadata, **METADATA}), temporary, **options)
        seal_file(temporary)


def read_parquet(path: Path) -> pa.Table:
    """Read a file of `write_parquet`, or an unsealed one of version 0.1.0.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        The file has changed since it was written, or is not a Parquet file.
    """
    file = open_parquet(path)
    try:
        return file.read()
    except _DAMAGE as error:
        raise _no_parquet(error) from None


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file of `write_parquet`, or an unsealed one of version 0.1.0, to read parts of it.

    All bytes are read at once, because another process may replace the file.

    Raises
    ------
    OSError, ValueError
        As :func:`read_parquet`.
    """
    with path.open("rb") as file:
        content = file.read()
    check_seal(content)
    try:
        return pq.ParquetFile(pa.BufferReader(content))
    except _DAMAGE as error:
        raise _no_parquet(error) from None


def _no_parquet(error: Exception) -> ValueError:
    return ValueError(" ".join(str(error).split())[:200] or "it is not a Parquet file")
