"""Readers of embeddings made by other tools (npy, Parquet, HDF5, safetensors), with the ids in those files.

No reader loads a whole array: opening a file reads its shape and ids, and `blocks` reads the values piece by piece.
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

from mmfeat.common.errors import DataError, MmfeatError, one_line
from mmfeat.common.text import counted, shown
from mmfeat.data.id_lists import IDS, as_ids, shape_text

MOST_NUMBERS = 1 << 24  # in one embedding
MOST_COMPRESSED = 2000  # most bytes of values per byte of the file


class ArrayFile(ABC):
    """A file with a table of numbers, one row for each sample.

    Parameters
    ----------
    array : str
        The data set, column or tensor with the embeddings; empty: the only one in the file.

    Attributes
    ----------
    array : str
        The name of the array that is read.
    shape : tuple of int
        `(N, D)`.

    Raises
    ------
    DataError
        The file does not have the format of its suffix, or holds no such table, or several.
    """

    kind = "a file"
    suffixes: ClassVar[tuple[str, ...]] = ()
    shape: tuple[int, int]

    def __init__(self, path: Path, array: str = "") -> None:
        self.path = path
        self._refused: dict[str, str] = {}  # arrays that cannot be read, and why
        with self.named():
            self.array, shape, dtype = self._chosen(self._arrays(), array)
            if dtype.kind not in "fiu":
                raise DataError(f"{self._place()} holds {dtype}, not numbers. Save it as float16 or float32")
            if len(shape) != 2:
                raise DataError(
                    f"{self._place()} has shape {shape_text(shape)}: embeddings are two-dimensional, (rows, width)"
                )
            if 0 in shape:
                raise DataError(f"{self._place()} has shape {shape_text(shape)}: there is nothing to import")
            self._check_size(shape, dtype)
            self.shape = shape

    def _check_size(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        """Refuse a shape that does not fit into the file's bytes or into memory, before anything is allocated."""
        declared, there = shape[0] * shape[1] * dtype.itemsize, self.path.stat().st_size
        if shape[1] > MOST_NUMBERS:
            raise DataError(
                f"{self._place()} has shape {shape_text(shape)}: an embedding has up to {MOST_NUMBERS:,} numbers"
            )
        if declared > there * MOST_COMPRESSED:
            raise DataError(
                f"{self._place()} has shape {shape_text(shape)}, {declared:,} bytes, and the file has {there:,}. "
                "It is damaged, or was never filled"
            )

    def _check_rows(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse an array that does not have one value for each row, before it is read."""
        if len(shape) != 1 or shape[0] != self.shape[0]:
            raise DataError(
                f"{self.path}: {name!r} has shape {shape_text(shape)} beside {shown(self.array)!r} of shape "
                f"{shape_text(self.shape)}. There must be one for each row"
            )

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Turn an error of any library into one line that names the file."""
        try:
            yield
        except (MmfeatError, FileNotFoundError):
            raise
        except MemoryError:
            raise DataError(f"{self.path}: the declared size does not fit into memory") from None
        except Exception as error:
            raise DataError(f"{self.path}: cannot be read as {self.kind}: {one_line(error)}") from None

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of up to `size` rows: the number of the first row, and `(n, D)` values in the file's dtype."""
        with self.named():
            yield from self._blocks(size)

    def ids(self) -> list[str] | None:
        """The ids in the same file; None without ids."""
        with self.named():
            return self._ids()

    def present(self) -> np.ndarray | None:
        """Which rows have an embedding, `(N,)` bool; None unless the file records it, as `mmfeat store export` does."""
        if not self.array.startswith("embeddings"):
            return None
        with self.named():
            return self._present("present" + self.array.removeprefix("embeddings"))

    def _chosen(
        self, arrays: dict[str, tuple[tuple[int, ...], np.dtype]], array: str
    ) -> tuple[str, tuple[int, ...], np.dtype]:
        """The array of this name, or the only candidate."""
        if array in self._refused:
            raise DataError(f"{self.path}: {self._refused[array]}")
        if self._refused and not array:  # which one is wanted is unknown
            other = f", or name another: --array NAME. {_listed(arrays)}" if arrays else ""
            raise DataError(f"{self.path}: {next(iter(self._refused.values()))}{other}")
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
        """Shape and dtype of every array in the file, by name."""

    @abstractmethod
    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]: ...

    def _ids(self) -> list[str] | None:
        return None

    def _present(self, name: str) -> np.ndarray | None:
        return None


class NpyFile(ArrayFile):
    """An .npy file: one array without a name."""

    kind = "npy"
    suffixes = (".npy",)

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        opened = self._mapped()
        return {"": (opened.shape, opened.dtype)}

    def _mapped(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.shape[0], size):  # mapped again for each block: frees the memory of the last
            yield start, np.array(self._mapped()[start : start + size])


class Hdf5File(ArrayFile):
    """An HDF5 file; data sets may lie in groups: `embeddings/text`."""

    kind = "HDF5"
    suffixes = (".h5", ".hdf5")

    def _open(self) -> Any:
        from mmfeat.common.hdf5_reading import open_hdf5

        return open_hdf5(self.path)

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        from mmfeat.common.hdf5_reading import RefusedDataset, check_dataset, datasets

        found = {}
        with self._open() as file:
            for name, item in datasets(file).items():
                try:
                    check_dataset(item, name)
                except RefusedDataset as error:
                    self._refused[name] = str(error)
                    continue
                if item.shape is not None:
                    found[name] = (item.shape, item.dtype)
        return found

    def _blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        with self._open() as file:
            values = self._dataset(file, self.array)
            for start in range(0, self.shape[0], size):
                yield start, values[start : start + size]

    def _ids(self) -> list[str] | None:
        import h5py

        with self._open() as file:
            for name in IDS:
                if (values := self._dataset(file, name)) is not None:
                    self._check_rows(name, values.shape)
                    is_text = h5py.check_string_dtype(values.dtype)
                    return as_ids(values.asstr()[:] if is_text else values[:], f"{self.path}: {name!r}")
        return None

    def _present(self, name: str) -> np.ndarray | None:
        with self._open() as file:
            if (values := self._dataset(file, name)) is None:
                return None
            self._check_rows(name, values.shape)
            return values[:].astype(bool)

    def _dataset(self, file: Any, name: str) -> Any:
        """A data set stored in this file (not linked); None without one of this name."""
        from mmfeat.common.hdf5_reading import RefusedDataset, dataset

        try:
            return dataset(file, name)
        except KeyError:
            return None
        except RefusedDataset as error:
            raise DataError(f"{self.path}: {error}") from None


class ParquetFile(ArrayFile):
    """A Parquet file with a column of lists, and optionally a column of ids."""

    kind = "Parquet"
    suffixes = (".parquet", ".pq")

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, buffer_size=1 << 22, pre_buffer=False)  # do not load whole row groups

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
        """The length of a column's lists, from its type or its first row."""
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
                    what = f"has {counted(n, 'number')}, the first has {width}" if n >= 0 else "has none"
                    raise DataError(f"{self._place()}: row {start + row + 1:,} {what}")
                values = column.flatten().to_numpy(zero_copy_only=False)
                yield start, values.reshape(-1, width)
                start += len(column)

    def _ids(self) -> list[str] | None:
        with self._open() as file:
            name = next((name for name in IDS if name in file.schema_arrow.names), None)
            if name is None:
                return None
            return as_ids(file.read(columns=[name])[name].to_pylist(), f"{self.path}: {name!r}")

    def _present(self, name: str) -> np.ndarray | None:
        with self._open() as file:
            if name not in file.schema_arrow.names:
                return None
            return np.array(file.read(columns=[name])[name].to_pylist(), dtype=bool)


class SafetensorsFile(ArrayFile):
    """A safetensors file; ids are a tensor of integers, or a JSON list `ids` in its metadata."""

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
        for start in range(0, self.shape[0], size):  # mapped again for each block: frees the memory of the last
            with self._open() as file:
                yield start, file.get_slice(self.array)[start : min(start + size, self.shape[0])]

    def _ids(self) -> list[str] | None:
        with self._open() as file:
            metadata = file.metadata() or {}
            for name in IDS:
                if name in metadata:
                    return as_ids(json.loads(metadata[name]), f"{self.path}: {name!r}")
                if name in file.keys():  # noqa: SIM118 - not a dict
                    return as_ids(file.get_tensor(name), f"{self.path}: {name!r}")
        return None

    def _present(self, name: str) -> np.ndarray | None:
        with self._open() as file:
            return file.get_tensor(name).astype(bool) if name in file.keys() else None  # noqa: SIM118 - not a dict


_FORMATS: tuple[type[ArrayFile], ...] = (NpyFile, ParquetFile, Hdf5File, SafetensorsFile)


def open_array(path: Path, array: str = "") -> ArrayFile:
    """Open a file of embeddings with the reader of its suffix.

    Raises
    ------
    DataError
        The file does not exist, its suffix is unknown, it does not have the format of its suffix, or several arrays could
        be the embeddings.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for form in _FORMATS:
        if path.suffix.lower() in form.suffixes:
            return form(path, array)
    if zipfile.is_zipfile(path):
        raise DataError(f"{path}: an archive. Unpack it, and name the .npy file in it")
    known = ", ".join(suffix for form in _FORMATS for suffix in form.suffixes)
    raise DataError(f"{path}: its suffix is not a format of embeddings. Use one of: {known}")


def _listed(arrays: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    listed = ", ".join(f"{shown(name)} {shape_text(shape)}" for name, (shape, _) in list(arrays.items())[:8])
    return f"It has {listed}{' ...' if len(arrays) > 8 else ''}."
