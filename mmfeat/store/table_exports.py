"""Exports of a FeatureTable for other tools: HDF5, npy, Parquet and safetensors, written in blocks and atomically."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError, StoreError
from mmfeat.common.files import atomic_path, flush_file, staging_folder, write_json
from mmfeat.common.hdf5_writing import writing_hdf5
from mmfeat.store.feature_table import FeatureTable

_BLOCK = 16384  # rows read at a time
MADE_FROM = "made_from"  # digest of the inputs: an attribute, metadata, or a file of the npy folder


def export_table(
    table: FeatureTable, destination: Path, form: str, *, advance: Callable[[int], None], made_from: str = ""
) -> bool:
    """Write a table's aligned arrays to a file.

    For each encoder NAME: `embeddings.NAME` `(N, D)`, `present.NAME` `(N,)` bool and, if the table has them, `logits.NAME`
    `(N, K)`, `tokens.NAME` `(N, T, d)` and `token_lengths.NAME` `(N,)`; in addition `labels` `(N, K)` int8, ids, splits
    (as the table has them) and classes. Missing rows are zeros.

    Parameters
    ----------
    form : str
        `h5` (one file; arrays in groups), `npy` (a folder with a file for each array), `parquet` (one file with a list
        column for each array, float32) or `safetensors` (one file; ids, splits and classes as JSON in its metadata).
    advance : callable
        Called with the number of rows of an array that were written.
    made_from : str
        Digest of the table's inputs. A destination with the same digest is left unchanged; empty: no destination is.

    Returns
    -------
    bool
        False if the destination exists already, made from the same inputs.

    Raises
    ------
    DataError
        The destination exists and was made from other inputs, or the format is unknown.
    StoreError
        The destination cannot be written.
    """
    if form not in _WRITERS:
        raise DataError(f"no format {form[:40]!r}. Use one of: {', '.join(_WRITERS)}")
    if destination.exists():
        if _is_same_export(destination, form, table, made_from=made_from):
            return False
        raise DataError(f"{destination}: exists already, and is not this export. Name another file, or remove it")
    try:
        _WRITERS[form](table, destination, advance, made_from=made_from)
        return True
    except OSError as error:
        # another process may have written the folder meanwhile
        if destination.is_dir() and _is_same_export(destination, form, table, made_from=made_from):
            return False
        raise StoreError(f"{destination}: cannot be written: {error.strerror or error}") from None


def arrays_of(table: FeatureTable) -> dict[str, Any]:
    """All arrays (or mapped rows) of a table by name, with N rows each."""
    found: dict[str, Any] = {"labels": table.labels}
    for name in table.embeddings:
        for kind in ("embeddings", "present", "logits", "tokens", "token_lengths"):
            values = getattr(table, kind).get(name)
            if values is not None:
                found[f"{kind}.{name}"] = values
    return found


def _blocks(values: Any, advance: Callable[[int], None]) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(values), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(values)))
        yield rows, np.asarray(values[rows])
        advance(rows.stop - rows.start)


def _texts(table: FeatureTable) -> dict[str, list[str]]:
    return {"ids": [str(i) for i in table.ids], "split": [str(s) for s in table.split], "classes": list(table.classes)}


def _write_h5(table: FeatureTable, destination: Path, advance: Callable[[int], None], *, made_from: str) -> None:
    import h5py

    with atomic_path(destination) as temporary, writing_hdf5(temporary) as h5:
        h5.attrs[MADE_FROM] = made_from
        for name, values in _texts(table).items():
            h5.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"))
        for name, values in arrays_of(table).items():
            written = h5.create_dataset(name.replace(".", "/", 1), values.shape, values.dtype)
            for rows, block in _blocks(values, advance):
                written[rows] = block


def _write_npy(table: FeatureTable, destination: Path, advance: Callable[[int], None], *, made_from: str) -> None:
    with staging_folder(destination.absolute().parent, sweep=False) as staged:
        for name, texts in {**_texts(table), MADE_FROM: made_from}.items():
            write_json(staged / f"{name}.json", texts)
        for name, values in arrays_of(table).items():
            with (staged / f"{name}.npy").open("wb") as file:  # not a memory map: a full disk would kill the process
                head = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**head, "shape": tuple(values.shape)})
                for _, block in _blocks(values, advance):
                    file.write(block.astype(values.dtype, copy=False).tobytes())
        for file in staged.iterdir():
            flush_file(file)
        staged.rename(destination)


def _write_parquet(table: FeatureTable, destination: Path, advance: Callable[[int], None], *, made_from: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, arrays = _texts(table), arrays_of(table)

    def column(values: np.ndarray) -> pa.Array:
        values = values.astype(np.float32) if values.dtype == np.float16 else values
        found = pa.array(np.ascontiguousarray(values).ravel())
        for width in values.shape[:0:-1]:
            found = pa.FixedSizeListArray.from_arrays(found, width)
        return found

    def batch(rows: slice, blocks: dict[str, np.ndarray]) -> pa.RecordBatch:
        columns = {
            "id": pa.array(texts["ids"][rows], pa.string()),
            "split": pa.array(texts["split"][rows], pa.string()),
        }
        return pa.RecordBatch.from_pydict(columns | {name: column(block) for name, block in blocks.items()})

    nothing = batch(slice(0, 0), {name: np.zeros((0, *v.shape[1:]), v.dtype) for name, v in arrays.items()})
    schema = nothing.schema.with_metadata({"classes": json.dumps(texts["classes"]), MADE_FROM: made_from})
    with atomic_path(destination) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, table.n_samples, _BLOCK):
            rows = slice(start, min(start + _BLOCK, table.n_samples))
            written = batch(rows, {name: np.asarray(values[rows]) for name, values in arrays.items()})
            writer.write_batch(written.replace_schema_metadata(schema.metadata))
            advance((rows.stop - rows.start) * len(arrays))


def _write_safetensors(
    table: FeatureTable, destination: Path, advance: Callable[[int], None], *, made_from: str
) -> None:
    from safetensors.numpy import save_file

    arrays = {}
    for name, values in arrays_of(table).items():  # the writer of the format takes whole arrays
        arrays[name] = np.ascontiguousarray(values[:])
        advance(len(values))
    with atomic_path(destination) as temporary:
        texts = {name: json.dumps(values) for name, values in _texts(table).items()}
        save_file(arrays, temporary, {**texts, MADE_FROM: made_from})


_WRITERS = {"h5": _write_h5, "npy": _write_npy, "parquet": _write_parquet, "safetensors": _write_safetensors}
FORMATS = tuple(_WRITERS)


def _is_same_export(destination: Path, form: str, table: FeatureTable, *, made_from: str) -> bool:
    """Whether a file was made from the same inputs and has all arrays in their shapes."""
    try:
        recorded, shapes = _READERS[form](destination)
    except Exception:  # each library raises its own errors for damaged or other files
        return False
    wanted = {name: tuple(values.shape) for name, values in arrays_of(table).items()}
    return bool(made_from) and recorded == made_from and wanted.items() <= shapes.items()


_Shapes = tuple[str, dict[str, tuple[int, ...]]]


def _read_h5(destination: Path) -> _Shapes:
    from mmfeat.common.hdf5_reading import datasets, open_hdf5

    with open_hdf5(destination) as h5:
        return str(h5.attrs[MADE_FROM]), {n.replace("/", ".", 1): one.shape for n, one in datasets(h5).items()}


def _read_npy(destination: Path) -> _Shapes:
    recorded = json.loads((destination / f"{MADE_FROM}.json").read_text(encoding="utf-8"))
    return recorded, {file.stem: np.load(file, "r", allow_pickle=False).shape for file in destination.glob("*.npy")}


def _read_parquet(destination: Path) -> _Shapes:
    import pyarrow.parquet as pq

    with pq.ParquetFile(destination) as file:
        schema, shapes = file.schema_arrow, {}
        for field in schema:
            shape, kind = [file.metadata.num_rows], field.type
            while hasattr(kind, "list_size"):
                shape.append(kind.list_size)
                kind = kind.value_type
            shapes[field.name] = tuple(shape)
        return schema.metadata[MADE_FROM.encode()].decode(), shapes


def _read_safetensors(destination: Path) -> _Shapes:
    from safetensors import safe_open

    with safe_open(destination, "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
        return file.metadata()[MADE_FROM], shapes


_READERS = {"h5": _read_h5, "npy": _read_npy, "parquet": _read_parquet, "safetensors": _read_safetensors}
