"""Segments: single files of the store, written atomically, verified by their commits, mapped for reading.

A segment of embeddings has `row_key`, `embeddings`, `errors` and, for images, `flat`; a segment of tokens has `row_key`,
`tokens` and `lengths`; a file of logits has `row_key` and `logits`. Data sets are contiguous and uncompressed, so that readers
can map them. HDF5 has no checksums for such data; the commit records one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmfeat.common.files import atomic_path, digest_bytes, digest_file, write_atomic
from mmfeat.common.hdf5_reading import dataset, open_hdf5
from mmfeat.common.hdf5_writing import writing_hdf5
from mmfeat.store.commits import (
    EMBEDDINGS,
    FORMAT,
    LOGITS,
    THUMBNAILS,
    TOKENS,
    Commit,
    layout_of,
    now,
    refuse_newer,
    unwritable,
    write_commit,
)
from mmfeat.store.mapped import MappedArray, Stamp
from mmfeat.store.uncommitted import WRITER, this_process

_BLOCK = 1 << 24  # bytes copied at a time


def write_file(
    folder: Path,
    file: str,
    kind: str,
    *,
    arrays: dict[str, np.ndarray],
    errors: Sequence[str],
    attributes: dict[str, Any],
) -> None:
    """Write one HDF5 file under a temporary name, flush and rename it, then commit it.

    Parameters
    ----------
    arrays : dict of np.ndarray
        `row_key` and the kind's other arrays, of equal length, little-endian.
    errors : sequence of str
        One for each row of embeddings or thumbnails, empty for rows without an error; empty sequence for tokens and logits.
    attributes : dict
        Recorded with the file: encoder key, output key, host, device, versions.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    n_errors = sum(map(bool, errors))
    # Made in memory: disk errors then occur in a plain write, and HDF5 takes no file lock.
    image = io.BytesIO()
    with h5py.File(image, "w") as h5:
        _write_head(h5, kind, n_errors, attributes=attributes)
        for name, array in arrays.items():
            h5.create_dataset(name, data=np.ascontiguousarray(array))
        if kind in (EMBEDDINGS, THUMBNAILS):
            _write_errors(h5, errors)
    data = image.getbuffer()
    commit = Commit(
        file=file, kind=kind, rows=len(arrays["row_key"]), errors=n_errors, size=len(data), sha256=digest_bytes(data)
    )
    try:
        write_atomic(folder / file, data)
        _commit(folder, commit)
    except OSError as error:
        raise unwritable(folder / file, error) from None


def write_merged(
    folder: Path, file: str, kind: str, *, sources: Sequence[tuple[StoredFile, np.ndarray]], attributes: dict[str, Any]
) -> None:
    """Write rows of several files of one kind and dtype into one file, in blocks, then commit it.

    Parameters
    ----------
    sources : sequence of (StoredFile, (m,) int array)
        The files, and the ascending rows to take from each.
    attributes : dict
        As for `write_file`.

    Raises
    ------
    StoreError
        The folder cannot be written, or a source has changed.
    """
    layout, n_rows = layout_of(kind), sum(len(rows) for _, rows in sources)
    errors = (
        [source.errors.get(row, "") for source, rows in sources for row in rows.tolist()] if kind == EMBEDDINGS else []
    )
    n_errors = sum(map(bool, errors))
    first = sources[0][0].values
    try:
        with atomic_path(folder / file) as temporary:
            with writing_hdf5(temporary) as h5:
                _write_head(h5, kind, n_errors, attributes=attributes)
                h5.create_dataset("row_key", data=np.concatenate([source.row_key[rows] for source, rows in sources]))
                if kind == EMBEDDINGS:
                    _write_errors(h5, errors)
                if any(source.flat is not None for source, _ in sources):
                    h5.create_dataset("flat", data=np.concatenate([s.is_flat[rows] for s, rows in sources]))
                if layout is TOKENS:
                    h5.create_dataset("lengths", data=np.concatenate([s.lengths[rows] for s, rows in sources]))
                values = h5.create_dataset(layout.values, (n_rows, *first.shape[1:]), first.dtype)
                at, step = 0, max(1, _BLOCK // max(1, first.row_bytes))
                for source, rows in sources:
                    for start in range(0, len(rows), step):
                        block = source.values[rows[start : start + step]]
                        values[at : at + len(block)] = block
                        at += len(block)
            size, digest = temporary.stat().st_size, digest_file(temporary)
        commit = Commit(file=file, kind=kind, rows=n_rows, errors=n_errors, size=size, sha256=digest)
        _commit(folder, commit)
    except (OSError, RuntimeError) as error:  # HDF5 raises different errors for a full disk
        raise unwritable(folder / file, error) from None


def _commit(folder: Path, commit: Commit) -> None:
    """Commit a written file, or remove it if that fails."""
    try:
        write_commit(folder, commit)
    except OSError:
        if not (folder / "commits" / commit.name).exists():
            (folder / commit.file).unlink(missing_ok=True)
        raise


def _write_head(h5: h5py.File, kind: str, n_errors: int, *, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        h5.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
    h5.attrs["encoding-type"] = layout_of(kind).encoding
    h5.attrs["encoding-version"] = FORMAT
    h5.attrs["created"] = now()
    h5.attrs[WRITER] = this_process()
    h5.attrs["n_errors"] = n_errors


def _write_errors(h5: h5py.File, errors: Sequence[str]) -> None:
    h5.create_dataset("errors", data=[_storable(e) for e in errors], dtype=h5py.string_dtype("utf-8"))


def _storable(reason: str) -> str:
    """A reason that HDF5 can store: UTF-8 without NUL, one short line, not empty unless it was empty."""
    text = " ".join(reason.replace("\0", " ").split())[:500].encode("utf-8", "replace").decode("utf-8")
    return text or ("unknown" if reason else "")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A committed file, opened for reading: row keys, errors and lengths in memory, the large array mapped.

    Attributes
    ----------
    row_key : np.ndarray
        `(n, 32)` uint8.
    values : MappedArray
        `(n, D)` embeddings, `(n, T, d)` tokens or `(n, K)` logits.
    errors : dict of int to str
        For unreadable rows, the reason.
    lengths : np.ndarray or None
        `(n,)` uint16, for tokens: the number of tokens of each row.
    classes : tuple of str
        For logits: the names of the K columns.
    flat : np.ndarray or None
        `(n,)` bool, if recorded: the image has a single colour, or nearly so.
    decoder : int
        Version of the image decoder; 1 if not recorded.
    decoding : str
        Settings that affect which images can be decoded.
    """

    name: str
    row_key: np.ndarray
    values: MappedArray
    errors: dict[int, str]
    lengths: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    flat: np.ndarray | None = None
    decoder: int = 1
    decoding: str = ""

    @property
    def is_flat(self) -> np.ndarray:
        """`(n,)` bool."""
        return np.zeros(len(self.row_key), dtype=bool) if self.flat is None else self.flat

    @property
    def is_error(self) -> np.ndarray:
        """`(n,)` bool."""
        mask = np.zeros(len(self.row_key), dtype=bool)
        mask[list(self.errors)] = True
        return mask


def open_file(path: Path, commit: Commit, stamp: Stamp, *, expected: dict[str, str]) -> StoredFile:
    """Open a verified file.

    Parameters
    ----------
    expected : dict of str to str
        Required attributes, such as the encoder key.

    Raises
    ------
    ValueError
        The file does not match its commit: another encoder, another shape.
    StoreError
        The file was written by a newer mmfeat.
    """
    layout = layout_of(commit.kind)
    try:
        with open_hdf5(path) as h5:
            refuse_newer(path, int(h5.attrs["encoding-version"]))
            for name, value in {"encoding-type": layout.encoding, **expected}.items():
                if h5.attrs.get(name) != value:
                    raise ValueError(f"it has another {name.replace('_', ' ')}")
            n_errors = int(h5.attrs["n_errors"])
            keys, data = dataset(h5, "row_key")[:], dataset(h5, layout.values)
            reasons = dataset(h5, "errors").asstr()[:] if n_errors else []
            lengths = dataset(h5, "lengths")[:] if layout is TOKENS else None
            classes = tuple(json.loads(h5.attrs["classes"])) if layout is LOGITS else ()
            flat = h5["flat"][:] if "flat" in h5 else None
            decoder, decoding = int(h5.attrs.get("decoder", 1)), str(h5.attrs.get("decoding", ""))
            offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"it cannot be read as HDF5 ({type(error).__name__})") from None
    errors = {row: reason for row, reason in enumerate(reasons) if reason}
    if (shape[:1], keys.shape) != ((commit.rows,), (commit.rows, 32)) or not n_errors == commit.errors == len(errors):
        raise ValueError("its rows do not match its commit")
    if offset is None or len(shape) != layout.n_axes or keys.dtype != np.uint8 or dtype.str not in layout.dtypes:
        raise ValueError(f"its {layout.values} are not a contiguous table of numbers")
    if lengths is not None and (lengths.shape != keys.shape[:1] or (lengths > shape[1]).any()):
        raise ValueError("its lengths do not match its tokens")
    if layout is LOGITS and len(classes) != shape[1]:
        raise ValueError("its classes do not match its logits")
    if flat is not None and (flat.shape, flat.dtype) != (keys.shape[:1], bool):
        raise ValueError("its flat images do not match its rows")
    values = MappedArray(path=path, stamp=stamp, offset=offset, shape=shape, dtype=dtype)
    return StoredFile(
        name=commit.file,
        row_key=keys,
        values=values,
        errors=errors,
        lengths=lengths,
        classes=classes,
        flat=flat,
        decoder=decoder,
        decoding=decoding,
    )


def attributes_of(path: Path) -> dict[str, Any]:
    """A file's attributes; versions, classes and origins are decoded from JSON."""
    with open_hdf5(path) as h5:
        return _attributes(h5)


def _attributes(h5: h5py.File) -> dict[str, Any]:
    return {n: json.loads(v) if n in ("versions", "classes", "origins") else v for n, v in h5.attrs.items()}


def origins_of(path: Path) -> list[dict[str, Any]]:
    """Where and when the rows of a segment were computed: host, device, versions, created, rows; one entry per origin."""
    with open_hdf5(path) as h5:
        attributes, n_rows = _attributes(h5), int(dataset(h5, "row_key").shape[0])
    if "origins" in attributes:
        return attributes["origins"]
    known = ("host", "device", "engine", "versions", "created")
    return [{**{name: attributes[name] for name in known if name in attributes}, "rows": n_rows}]
