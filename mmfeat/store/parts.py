"""One file of the store: written whole, checked by its commit, mapped for reading.

A part holds `row_key`, `embeddings` and `errors`; a file of logits `row_key` and `logits`. Data sets are contiguous and
uncompressed, so that a reader maps them. HDF5 keeps no checksum of such data: the one in the commit stands for it.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmfeat.errors import StoreError
from mmfeat.files import atomic_path, digest_file, write_json

FORMAT = 1
ENCODING = {"embeddings": "mmfeat-part", "logits": "mmfeat-logits"}


@dataclass(frozen=True)
class Commit:
    """A file that counts, as its JSON in commits/ says.

    Attributes
    ----------
    file : str
        Path below the encoder's folder.
    kind : str
        `embeddings`, or the output key of a file of logits.
    sha256 : str
        Of the whole file.
    """

    file: str
    kind: str
    rows: int
    errors: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the commit's own file."""
        return self.file.replace("/", "-") + ".json"


def new_part_name() -> str:
    """A name that no other writer chooses."""
    return f"part-{secrets.token_hex(8)}.h5"


def write_file(
    folder: Path, file: str, kind: str, arrays: dict[str, np.ndarray], errors: list[str] | None, attributes: dict[str, Any]
) -> Commit:
    """Write one HDF5 file under a temporary name, flush and rename it, then commit it.

    Parameters
    ----------
    arrays : dict of np.ndarray
        `row_key` and `embeddings` or `logits`, of equal length.
    errors : list of str, optional
        One for each row of a part, empty where the row is good.
    attributes : dict
        Recorded with the file: encoder key, output key, host, device, versions.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    path = folder / file
    what = "embeddings" if kind == "embeddings" else "logits"
    try:
        with atomic_path(path) as temporary:
            with h5py.File(temporary, "w", libver="latest") as h5:
                h5.attrs["encoding-type"] = ENCODING[what]
                h5.attrs["encoding-version"] = FORMAT
                h5.attrs["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                for name, value in attributes.items():
                    h5.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
                for name, array in arrays.items():
                    h5.create_dataset(name, data=np.ascontiguousarray(array))
                if errors is not None:
                    h5.create_dataset("errors", data=errors, dtype=h5py.string_dtype("utf-8"))
            size, digest = temporary.stat().st_size, digest_file(temporary)
        n_errors = sum(map(bool, errors or ()))
        commit = Commit(file, kind, len(arrays["row_key"]), n_errors, size, digest)
        write_json(folder / "commits" / commit.name, {"format": FORMAT, **vars(commit)})
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}. Nothing half-written counts") from None
    return commit


def read_commit(path: Path) -> Commit:
    """Read a commit.

    Raises
    ------
    ValueError
        It is damaged.
    StoreError
        A newer mmfeat wrote it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format")
        if isinstance(version, int) and version > FORMAT:
            raise StoreError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")
        commit = Commit(**values)
    except (OSError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if commit.name != path.name or ".." in commit.file.split("/") or not all(
        isinstance(n, int) and n >= 0 for n in (commit.rows, commit.errors, commit.size)
    ):
        raise ValueError("its content is not that of its name")
    return commit


@dataclass(frozen=True)
class MappedFile:
    """A committed file opened for reading: row keys in memory, the large array mapped.

    Attributes
    ----------
    row_key : np.ndarray
        `(n, 32)` uint8.
    values : np.ndarray
        `(n, D)` embeddings or `(n, K)` logits, a read-only map of the file.
    errors : np.ndarray
        `(n,)` object; empty strings where the row is good.
    """

    row_key: np.ndarray
    values: np.ndarray
    errors: np.ndarray


def map_file(path: Path, commit: Commit, expected: dict[str, str]) -> MappedFile:
    """Map a verified file.

    Parameters
    ----------
    expected : dict of str to str
        Attributes that the file must have, such as its encoder key.

    Raises
    ------
    ValueError
        It is not what its commit says: of another encoder, of another shape.
    StoreError
        A newer mmfeat wrote it.
    """
    what = "embeddings" if commit.kind == "embeddings" else "logits"
    try:
        with h5py.File(path, "r") as h5:
            version = int(h5.attrs["encoding-version"])
            if version > FORMAT:
                raise StoreError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")
            for name, value in {"encoding-type": ENCODING[what], **expected}.items():
                if h5.attrs.get(name) != value:
                    raise ValueError(f"it is of another {name.replace('_', ' ')}")
            keys, data = h5["row_key"][:], h5[what]
            errors = h5["errors"].asstr()[:] if "errors" in h5 else np.full(len(keys), "", dtype=object)
            if len({len(keys), len(data), len(errors), commit.rows}) != 1 or keys.shape[1:] != (32,) or data.ndim != 2:
                raise ValueError(f"it holds {len(data)} rows, its commit says {commit.rows}")
            if not commit.rows:
                return MappedFile(keys, data[:], errors)
            offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"it cannot be read as HDF5: {error}") from None
    if offset is None:
        raise ValueError("its data set is not contiguous")
    return MappedFile(keys, np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape), errors)
