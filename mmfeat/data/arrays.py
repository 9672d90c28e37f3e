"""Embeddings in other tools' files (npy, Parquet, HDF5, safetensors) and the ids that go with them, read in blocks.

Nothing here reads a whole array: a file is opened for its shape and its ids, and `blocks` reads on from there.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmfeat.errors import DataError, MmfeatError, one_line
from mmfeat.texts import shown

IDS = ("id", "ids")  # what a column, data set or tensor of ids is called


class ArrayFile(ABC):
    """A file with a table of numbers, one row for each sample.

    Parameters
    ----------
    array : str
        The data set, column or tensor that holds it; empty: found.

    Attributes
    ----------
    array : str
        The one that is read.
    shape : tuple of int
        `(N, D)`.

    Raises
    ------
    DataError
        The file is not what its name says, or holds no such table, or several.
    """

    kind = "a file"
    suffixes: ClassVar[tuple[str, ...]] = ()
    shape: tuple[int, int]

    def __init__(self, path: Path, array: str = "") -> None:
        self.path = path
        with self.named():
            self.array, shape, dtype = self._chosen(self._arrays(), array)
            if dtype.kind not in "fiu":
                raise DataError(f"{self._place()} holds {dtype}, not numbers. Save it as float16 or float32")
            if len(shape) != 2:
                raise DataError(
                    f"{self._place()} has shape {_shape(shape)}: embeddings are two-dimensional, (rows, width)"
                )
            if 0 in shape:
                raise DataError(f"{self._place()} has shape {_shape(shape)}: there is nothing to import")
            self.shape = shape

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Say in one line of which file an error is; every library has its own kinds."""
        try:
            yield
        except (MmfeatError, FileNotFoundError, MemoryError):
            raise
        except Exception as error:
            raise DataError(f"{self.path}: cannot be read as {self.kind}: {one_line(error)}") from None

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """The rows in pieces of up to `size`: the first one's number, and `(n, D)` numbers of the file's own type."""
        with self.named():
            yield from self._blocks(size)

    def ids(self) -> list[str] | None:
        """The ids that lie in the same file; None where there are none."""
        with self.named():
            return self._ids()

    def present(self) -> np.ndarray | None:
        """Which rows have an embedding, `(N,)` bool, where the file says so, as those of `mmfeat store export` do."""
        if not self.array.startswith("embeddings"):
            return None
        with self.named():
            return self._present("present" + self.array.removeprefix("embeddings"))

    def _chosen(
        self, arrays: dict[str, tuple[tuple[int, ...], np.dtype]], array: str
    ) -> tuple[str, tuple[int, ...], np.dtype]:
        """The array that is named, or the only one that can be meant."""
        if array:
            if array not in arrays:
                raise DataError(f"{self.path}: no {shown(array)!r} in it. {_listed(arrays)}")
            return array, *arrays[array]
        tables = {n: a for n, a in arrays.items() if len(a[0]) == 2 and a[1].kind == "f"} or arrays
        called = [name for name in tables if "embedding" in name.lower()] or list(tables)
        if len(called) != 1:
            raise DataError(
                f"{self.path}: which of them are the embeddings? {_listed(arrays)} Name one: --array NAME"
                if arrays
                else f"{self.path}: there is no array in it"
            )
        return called[0], *tables[called[0]]

    def _place(self) -> str:
        return f"{self.path}: {shown(self.array)!r}" if self.array else f"{self.path}: it"

    @abstractmethod
    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name to shape and type of every array in the file."""

    @abstractmethod
    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]: ...

    def _ids(self) -> list[str] | None:
        return None

    def _present(self, name: str) -> np.ndarray | None:
        return None


class NpyFile(ArrayFile):
    """An .npy file, one array without a name."""

    kind = "npy"
    suffixes = (".npy",)

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        opened = self._mapped()
        return {"": (opened.shape, opened.dtype)}

    def _mapped(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.shape[0], size):  # mapped anew for each block: what was read is given back
            yield start, np.array(self._mapped()[start : start + size])


class Hdf5File(ArrayFile):
    """An HDF5 file; data sets may lie in groups, `embeddings/text`."""

    kind = "HDF5"
    suffixes = (".h5", ".hdf5")

    def _open(self) -> Any:
        import h5py

        return h5py.File(self.path, "r", locking=False)

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        import h5py

        found = {}
        with self._open() as file:
            file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
            return {name: (item.shape, item.dtype) for name, item in found.items() if item.shape is not None}

    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        with self._open() as file:
            values = file[self.array]
            for start in range(0, self.shape[0], size):
                yield start, values[start : start + size]

    def _ids(self) -> list[str] | None:
        import h5py

        with self._open() as file:
            name = next((name for name in IDS if isinstance(file.get(name), h5py.Dataset)), None)
            if name is None:
                return None
            is_text = h5py.check_string_dtype(file[name].dtype)
            return _as_ids(file[name].asstr()[:] if is_text else file[name][:], f"{self.path}: {name!r}")

    def _present(self, name: str) -> np.ndarray | None:
        with self._open() as file:
            return file[name][:].astype(bool) if name in file else None


class ParquetFile(ArrayFile):
    """A Parquet file with a column of lists, and perhaps one of ids."""

    kind = "Parquet"
    suffixes = (".parquet", ".pq")

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, memory_map=False, pre_buffer=False)

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        import pyarrow as pa

        with self._open() as file:
            found = {}
            for field in file.schema_arrow:
                if pa.types.is_fixed_size_list(field.type) or pa.types.is_list(field.type):
                    inner = field.type.value_type
                    dtype = inner.to_pandas_dtype() if pa.types.is_primitive(inner) else object
                    found[field.name] = ((file.metadata.num_rows, self._width(file, field)), np.dtype(dtype))
            if not found:
                raise DataError(
                    f"{self.path}: no column of lists in it; embeddings are one list of numbers a row. "
                    f"Columns: {shown(', '.join(file.schema_arrow.names), 200)}"
                )
            return found

    @staticmethod
    def _width(file: Any, field: Any) -> int:
        """The length of a column's lists, by its type or its first row."""
        if hasattr(field.type, "list_size"):
            return field.type.list_size
        for batch in file.iter_batches(1, columns=[field.name]):
            return len(batch[field.name][0].as_py() or ())
        return 0

    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        start, width = 0, self.shape[1]
        with self._open() as file:
            for batch in file.iter_batches(size, columns=[self.array]):
                column = batch.column(0)
                lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
                if (wrong := np.flatnonzero(lengths != width)).size:
                    row, n = int(wrong[0]), int(lengths[wrong[0]])
                    what = f"has {n} numbers, the first has {width}" if n >= 0 else "has none"
                    raise DataError(f"{self._place()}: row {start + row + 1:,} {what}")
                values = column.flatten().to_numpy(zero_copy_only=False)
                yield start, values.reshape(-1, width)
                start += len(column)

    def _ids(self) -> list[str] | None:
        with self._open() as file:
            name = next((name for name in IDS if name in file.schema_arrow.names), None)
            if name is None:
                return None
            return _as_ids(file.read(columns=[name])[name].to_pylist(), f"{self.path}: {name!r}")

    def _present(self, name: str) -> np.ndarray | None:
        with self._open() as file:
            if name not in file.schema_arrow.names:
                return None
            return np.array(file.read(columns=[name])[name].to_pylist(), dtype=bool)


class SafetensorsFile(ArrayFile):
    """A safetensors file; ids are a tensor of whole numbers, or a JSON list `ids` of its metadata."""

    kind = "safetensors"
    suffixes = (".safetensors",)

    def _open(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path, "np")

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        names = {"F16": "f2", "F32": "f4", "F64": "f8", "I8": "i1", "U8": "u1", "I16": "i2", "I32": "i4", "I64": "i8"}
        with self._open() as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            kinds = {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
        return {name: (shape, np.dtype(names.get(kind, object))) for name, (shape, kind) in kinds.items()}

    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.shape[0], size):  # mapped anew for each block: what was read is given back
            with self._open() as file:
                yield start, file.get_slice(self.array)[start : start + size]

    def _ids(self) -> list[str] | None:
        with self._open() as file:
            metadata = file.metadata() or {}
            for name in IDS:
                if name in metadata:
                    return _as_ids(json.loads(metadata[name]), f"{self.path}: {name!r}")
                if name in file.keys():  # noqa: SIM118 - not a dict
                    return _as_ids(file.get_tensor(name), f"{self.path}: {name!r}")
        return None

    def _present(self, name: str) -> np.ndarray | None:
        with self._open() as file:
            return file.get_tensor(name).astype(bool) if name in file.keys() else None  # noqa: SIM118 - not a dict


_FORMATS: tuple[type[ArrayFile], ...] = (NpyFile, ParquetFile, Hdf5File, SafetensorsFile)


def open_array(path: Path, array: str = "") -> ArrayFile:
    """Open a file of embeddings by its suffix.

    Raises
    ------
    DataError
        It is not there, not of a format that is read, not what its suffix says, or which of its arrays is meant is
        open.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for form in _FORMATS:
        if path.suffix.lower() in form.suffixes:
            return form(path, array)
    if zipfile.is_zipfile(path):
        raise DataError(f"{path}: an archive. Unpack it, and name the .npy file in it")
    known = ", ".join(suffix for form in _FORMATS for suffix in form.suffixes)
    raise DataError(f"{path}: its suffix says no format of embeddings. Use one of: {known}")


def read_ids(path: Path, n_rows: int) -> list[str]:
    """Ids from a file of their own: CSV (a column `id`, or one column), .txt (one a line), .npy, or .json (a list).

    Parameters
    ----------
    n_rows : int
        How many there should be: tells whether the first line of one column is a title.

    Raises
    ------
    DataError
        The file cannot be read, or does not say which column holds the ids.
    """
    readers = {".csv": _csv_ids, ".txt": _text_ids, ".npy": _npy_ids, ".json": _json_ids}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: its suffix says no format of ids. Use one of: {', '.join(readers)}")
    try:
        values = read(path, n_rows)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except Exception as error:  # the csv, json and npy readers have their own kinds
        raise DataError(f"{path}: cannot be read as {path.suffix[1:].lower()}: {one_line(error)}") from None
    return _as_ids(values, str(path))


def _csv_ids(path: Path, n_rows: int) -> list[str]:
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file, strict=True) if row]
    if not rows:
        raise DataError(f"{path}: it is empty")
    title = next((name for name in IDS if name in rows[0]), None)
    if title is None and len(rows[0]) > 1:
        raise DataError(f"{path}: no column 'id' among {shown(', '.join(rows[0]), 120)!r}. Call the column of ids so")
    at = rows[0].index(title) if title else 0
    body = rows[1:] if title or len(rows) == n_rows + 1 else rows
    short = next((number for number, row in enumerate(body, 1) if len(row) <= at), None)
    if short is not None:
        raise DataError(f"{path}: row {short:,} has no id")
    return [row[at] for row in body]


def _text_ids(path: Path, n_rows: int) -> list[str]:
    return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")


def _npy_ids(path: Path, n_rows: int) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _json_ids(path: Path, n_rows: int) -> list[Any]:
    values = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(values, list):
        raise DataError(f"{path}: not a list of ids")
    return values


def _as_ids(values: Any, place: str) -> list[str]:
    """Texts and whole numbers as text; anything else, and an empty one, is an error that names its row."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise DataError(f"{place} has shape {_shape(values.shape)}: ids are one list")
        values = values.tolist()
    ids = []
    for number, value in enumerate(values, 1):
        value = value.decode("utf-8") if isinstance(value, bytes) else value
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            found = "blank" if value in ("", None) else f"{shown(repr(value))}, neither text nor a whole number"
            raise DataError(f"{place}: the id of row {number:,} is {found}")
        ids.append(str(value).rstrip("\r"))
    return ids


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(f"{n:,}" for n in shape) + ("," if len(shape) == 1 else "") + ")"


def _listed(arrays: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    listed = ", ".join(f"{shown(name)} {_shape(shape)}" for name, (shape, _) in list(arrays.items())[:8])
    return f"It has {listed}{' ...' if len(arrays) > 8 else ''}."
