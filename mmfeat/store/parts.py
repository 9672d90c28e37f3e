"""One file of the store: written whole, checked by its commit, mapped for reading.

A part holds `row_key`, `embeddings` and `errors`; a file of logits `row_key` and `logits`. Data sets are contiguous and
uncompressed, so that a reader maps them. HDF5 keeps no checksum of such data: the one in the commit stands for it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmfeat.errors import StoreError
from mmfeat.files import digest_bytes, write_atomic, write_json

FORMAT = 1
EMBEDDINGS = "embeddings"
MAPS_OPEN = 256  # each map holds a file descriptor, of which a process often has 1024
_ENCODING = {EMBEDDINGS: "mmfeat-part", "logits": "mmfeat-logits"}
_DTYPES = {EMBEDDINGS: ("<f2", "<f4"), "logits": ("<f4",)}
_FILE = re.compile(r"part-[0-9a-f]{16}\.h5|logits-(?P<output>[0-9a-f]{12})/part-[0-9a-f]{16}-[0-9a-f]{8}\.h5")

Stamp = tuple[int, int, int]  # size, mtime in ns, inode


class UnstorableRow(StoreError):
    """A value is not finite or does not fit the store's dtype; `row` is the first such row of those being written."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Commit:
    """A file that counts, as its JSON in commits/ says.

    Attributes
    ----------
    file : str
        Path below the encoder's folder.
    kind : str
        `embeddings`, or the output key of a file of logits.
    size : int
        Bytes.
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
    """The name of a part, which no other writer chooses."""
    return f"part-{secrets.token_hex(8)}.h5"


def new_logits_name(output_key: str, part: str) -> str:
    """A name for the logits of a part, which no other writer chooses."""
    return f"{logits_prefix(output_key, part)}{secrets.token_hex(4)}.h5"


def logits_prefix(output_key: str, part: str) -> str:
    """How the names of all files with a part's logits begin."""
    return f"logits-{output_key[:12]}/{part.removesuffix('.h5')}-"


def write_file(
    folder: Path, file: str, kind: str, arrays: dict[str, np.ndarray], errors: Sequence[str], attributes: dict[str, Any]
) -> None:
    """Write one HDF5 file under a temporary name, flush and rename it, then commit it.

    Parameters
    ----------
    arrays : dict of np.ndarray
        `row_key` and `embeddings` or `logits`, of equal length, little-endian.
    errors : sequence of str
        One for each row of a part, empty where the row is good; none at all for logits.
    attributes : dict
        Recorded with the file: encoder key, output key, host, device, versions.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    n_errors = sum(map(bool, errors))
    # Made in memory: whatever a disk can refuse is then refused by a plain write, and no HDF5 file lock is taken.
    image = io.BytesIO()
    with h5py.File(image, "w") as h5:
        for name, value in attributes.items():
            h5.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
        h5.attrs["encoding-type"] = _ENCODING[EMBEDDINGS if kind == EMBEDDINGS else "logits"]
        h5.attrs["encoding-version"] = FORMAT
        h5.attrs["created"] = now()
        h5.attrs["n_errors"] = n_errors
        for name, array in arrays.items():
            h5.create_dataset(name, data=np.ascontiguousarray(array))
        if kind == EMBEDDINGS:
            h5.create_dataset("errors", data=[_storable(e) for e in errors], dtype=h5py.string_dtype("utf-8"))
    data = image.getbuffer()
    commit = Commit(file, kind, len(arrays["row_key"]), n_errors, len(data), digest_bytes(data))
    try:
        write_atomic(folder / file, data)
        write_json(folder / "commits" / commit.name, {"format": FORMAT, **vars(commit)})
    except OSError as error:
        raise unwritable(folder / file, error) from None


def unwritable(path: Path, error: OSError) -> StoreError:
    """A folder without leave to write, a full disk, as one line."""
    return StoreError(f"{path}: cannot be written: {error.strerror or error}. Nothing half-written counts")


def now() -> str:
    """The time, as the store records it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _storable(reason: str) -> str:
    """A reason as HDF5 can hold it: UTF-8 without NUL, on one short line; never empty unless it was."""
    text = " ".join(reason.replace("\0", " ").split())[:500].encode("utf-8", "replace").decode("utf-8")
    return text or ("unknown" if reason else "")


def refuse_newer(path: Path, version: int) -> None:
    """Raise StoreError where a newer mmfeat wrote a file."""
    if version > FORMAT:
        raise StoreError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")


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
        refuse_newer(path, values.pop("format"))
        commit = Commit(**values)
        match = _FILE.fullmatch(commit.file)
        right_kind = commit.kind == EMBEDDINGS if match["output"] is None else commit.kind[:12] == match["output"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged ({type(error).__name__})") from None
    counts = (commit.rows, commit.errors, commit.size)
    if not right_kind or commit.name != path.name or not all(isinstance(n, int) for n in counts):
        raise ValueError("damaged: it is not the commit of its name")
    return commit


@dataclass(frozen=True)
class MappedArray:
    """A large array of a verified file: `(n, D)`, read only where it is indexed.

    Attributes
    ----------
    stamp : tuple of int
        Of the file when it was verified.
    """

    path: Path
    stamp: Stamp
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return _map(self)[rows]


@functools.lru_cache(MAPS_OPEN)
def _map(array: MappedArray) -> np.ndarray:
    try:
        with array.path.open("rb") as file:
            if stamp_of(os.fstat(file.fileno())) == array.stamp:
                return np.asarray(np.memmap(file, array.dtype, "r", array.offset, array.shape))
    except OSError as error:
        raise StoreError(f"{array.path}: cannot be read: {error.strerror or error}") from None
    raise StoreError(f"{array.path}: was changed while it was in use. Run the command again")


def stamp_of(stat: os.stat_result) -> Stamp:
    """What tells whether a file may have changed."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


@dataclass(frozen=True)
class StoredFile:
    """A committed file opened for reading: row keys and errors in memory, the large array mapped.

    Attributes
    ----------
    row_key : np.ndarray
        `(n, 32)` uint8.
    values : MappedArray
        `(n, D)` embeddings or `(n, K)` logits.
    errors : dict of int to str
        Row to the reason why its sample could not be decoded.
    """

    name: str
    row_key: np.ndarray
    values: MappedArray
    errors: dict[int, str]

    @property
    def is_error(self) -> np.ndarray:
        """`(n,)` bool."""
        mask = np.zeros(len(self.row_key), dtype=bool)
        mask[list(self.errors)] = True
        return mask


def open_file(path: Path, commit: Commit, stamp: Stamp, expected: dict[str, str]) -> StoredFile:
    """Open a verified file.

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
    what = EMBEDDINGS if commit.kind == EMBEDDINGS else "logits"
    try:
        with h5py.File(path, "r", locking=False) as h5:  # it never changes, and some shared disks have no locks
            refuse_newer(path, int(h5.attrs["encoding-version"]))
            for name, value in {"encoding-type": _ENCODING[what], **expected}.items():
                if h5.attrs.get(name) != value:
                    raise ValueError(f"it is of another {name.replace('_', ' ')}")
            n_errors = int(h5.attrs["n_errors"])
            keys, data = h5["row_key"][:], h5[what]
            reasons = h5["errors"].asstr()[:] if n_errors else []
            offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"it cannot be read as HDF5 ({type(error).__name__})") from None
    errors = {row: reason for row, reason in enumerate(reasons) if reason}
    if (shape[:1], keys.shape) != ((commit.rows,), (commit.rows, 32)) or not n_errors == commit.errors == len(errors):
        raise ValueError("its rows are not those of its commit")
    if offset is None or len(shape) != 2 or keys.dtype != np.uint8 or dtype.str not in _DTYPES[what]:
        raise ValueError(f"its {what} are not a contiguous table of numbers")
    return StoredFile(commit.file, keys, MappedArray(path, stamp, offset, shape, dtype), errors)
