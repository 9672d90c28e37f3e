"""Parquet tables: only requested columns are read, including nested ones such as `image.path`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.text import counted, shown
from mmfeat.data.tables.huggingface import class_names, features_of
from mmfeat.data.tables.table import Table

_ERRORS = (OSError, ValueError, pa.ArrowException)


@dataclass(frozen=True)
class _Column:
    """A column or a field within one: its names from the top, its stored leaves, its type inside all lists."""

    steps: tuple[str, ...]
    leaves: range
    kind: pa.DataType

    @property
    def name(self) -> str:
        return ".".join(self.steps)


class ParquetTable(Table):
    """A Parquet file.

    A column of structs, or of lists of structs, is followed by a column for each field: `image`, `image.bytes`,
    `image.path`. Labels that Hugging Face datasets store as numbers are read as their names. Embedded images are never
    read, but their names are.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._opened() as opened:
            schema, n_rows = opened.schema_arrow, opened.metadata.num_rows
            self._paths = [opened.schema.column(k).path for k in range(len(opened.schema))]
        self._facts = _facts(file)
        columns = list(_columns(schema))
        own = [column for column in columns if len(column.steps) == 1]
        self._columns = {column.name: column for column in columns} | {column.name: column for column in own}
        super().__init__(file, _header(columns, schema.names), n_rows)
        self.inside = {n: c.steps[0] for n, c in self._columns.items() if len(c.steps) > 1}
        self.plain = [n for n, c in self._columns.items() if len(c.steps) == 1 and _is_plain(schema.field(n).type)]
        features = features_of(schema.metadata)
        named = {n: class_names(features, c.steps) for n, c in self._columns.items() if pa.types.is_integer(c.kind)}
        self._classes = {name: classes for name, classes in named.items() if classes}
        self.plain = [name for name in self.plain if name not in self._classes]
        self.pictures = {c.name: self._names_of(c) for c in columns if _holds_bytes(c.kind)}
        self._cells: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """Python values; class labels as lists of names. Read once, then remembered.

        Raises
        ------
        DataError
            The column cannot be read, or has structs or bytes.
        """
        if name not in self._cells:
            column = self._columns[name]
            if pa.types.is_struct(column.kind) or pa.types.is_map(column.kind) or _is_bytes(column.kind):
                raise self._no_texts(column)
            cells = self._read(column)
            self._cells[name] = self._as_names(name, cells) if name in self._classes else cells
        return self._cells[name]

    def first_cells(self, name: str, n: int) -> list[Any]:
        """The first cells, without reading the others."""
        return self._cells[name][:n] if name in self._cells else self._read(self._columns[name], n)

    def _read(self, column: _Column, n: int | None = None) -> list[Any]:
        """The values of a column, or its first `n`."""
        try:
            with self._opened() as opened:
                if _facts(self.file) != self._facts:
                    raise DataError(f"{self.file}: has changed since it was opened. Run the command again")
                paths, top = [self._paths[k] for k in column.leaves], column.steps[0]
                if n is None:
                    values = opened.read(columns=paths)[top].to_pylist()
                else:
                    batch = next(opened.iter_batches(n, columns=paths), None)
                    values = batch[top].to_pylist() if batch is not None else []
        except _ERRORS as error:
            raise DataError(
                f"{self.file}: column {shown(repr(column.name))} cannot be read: {one_line(error)}"
            ) from None
        return [_within(value, column.steps[1:]) for value in values] if len(column.steps) > 1 else values

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.file)
        except _ERRORS as error:
            raise DataError(f"{self.file}: not a Parquet file that can be read: {one_line(error)}") from None

    def _names_of(self, column: _Column) -> str:
        """The column with the names of a column's embedded images; empty without one."""
        name = f"{column.name}.path"
        return name if name in self._columns and pa.types.is_struct(column.kind) else ""

    def _no_texts(self, column: _Column) -> DataError:
        found = "bytes" if _is_bytes(column.kind) else "a struct"
        fields = [name for name in self.inside if name.startswith(f"{column.name}.") and name not in self.pictures]
        remedy = f"Name another column{f', like {shown(fields[0])}' if fields else ''}"
        return DataError(
            f"{self.file} row 1: column {shown(repr(column.name))} holds {found}, and texts are needed. {remedy}"
        )

    def _as_names(self, name: str, cells: list[Any]) -> list[list[str] | None]:
        """Class numbers as names; -1 is no label in Hugging Face's format."""
        classes, named = self._classes[name], []
        for row, cell in enumerate(cells):
            numbers = [n for n in _flat(cell) if n is not None and n != -1]
            wrong = next((n for n in numbers if not 0 <= n < len(classes)), None)
            if wrong is not None:
                raise DataError(
                    f"{self.file}{self.where(row)}: column {shown(repr(name))} holds label {wrong}, and the file names "
                    f"{counted(len(classes), 'class', 'classes')}, from 0. Write the table again with all names"
                )
            no_label = cell is None or (cell == -1)
            named.append(None if no_label else [classes[n] for n in dict.fromkeys(numbers)])
        return named


def _columns(schema: pa.Schema) -> Iterator[_Column]:
    """All columns, each followed by the fields within it, with the numbers of their stored leaves."""
    start = 0
    for field in schema:
        yield from _inside((field.name,), field.type, start)
        start += _n_leaves(field.type)


def _inside(steps: tuple[str, ...], kind: pa.DataType, start: int) -> Iterator[_Column]:
    element = _element(kind)
    yield _Column(steps, range(start, start + _n_leaves(kind)), element)
    if pa.types.is_struct(element):
        for field in element:
            yield from _inside((*steps, field.name), field.type, start)
            start += _n_leaves(field.type)


def _element(kind: pa.DataType) -> pa.DataType:
    """The type of the innermost elements of lists."""
    while _is_list(kind):
        kind = kind.value_type
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _n_leaves(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        return _n_leaves(kind.storage_type)
    if _is_list(kind):
        return _n_leaves(kind.value_type)
    if pa.types.is_map(kind):
        return _n_leaves(kind.key_type) + _n_leaves(kind.item_type)
    return sum(_n_leaves(field.type) for field in kind) if pa.types.is_struct(kind) else 1


def _header(columns: Sequence[_Column], own: Sequence[str]) -> list[str]:
    """All names, in order; a nested name is dropped if a top-level column has the same name."""
    names = [c.name for c in columns if len(c.steps) == 1 or c.name not in own]
    return names if len(own) != len(set(own)) else list(dict.fromkeys(names))


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or _is_bytes(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _holds_bytes(kind: pa.DataType) -> bool:
    return _is_bytes(kind) or (pa.types.is_struct(kind) and any(_is_bytes(_element(field.type)) for field in kind))


def _within(value: Any, steps: tuple[str, ...]) -> Any:
    """The nested values within a value; for a list, of each element."""
    if isinstance(value, list):
        return [_within(one, steps) for one in value]
    return _within(value.get(steps[0]), steps[1:]) if steps and isinstance(value, dict) else value


def _flat(cell: Any) -> Iterator[Any]:
    if isinstance(cell, list):
        for part in cell:
            yield from _flat(part)
    else:
        yield cell


def _facts(file: Path) -> tuple[int, int, int]:
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ino
