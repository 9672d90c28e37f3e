"""Seals: a sealed file contains the digest of its own content, so that any changed bit is detected.

- A JSON file contains the digest of its values under `seal`. The record of a folder also contains `files`: size and
  SHA-256 of the folder's other files (:func:`seal_folder`), which :mod:`mmfeat.common.verified` checks.
- A Parquet or safetensors file contains in its metadata the digest of all its other bytes (:func:`seal_file`).

Files of version 0.1.0 have no seal and are read without one. A seal detects damage, not forgery: anyone can change a file
and seal it again.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmfeat.common.files import digest_file, digest_json, write_atomic
from mmfeat.common.json_shapes import Shape, misfit

FILES = "files"  # in a sealed record: name to size and sha256; records of version 0.1.0 lack it
_SEAL = "seal"
_FILES_SHAPE: Shape = {str: {"size": int, "sha256": str}}
_BEGIN, _END = b"mmfeat-seal:", b":end-of-seal"  # two marks: one flipped bit cannot hide the seal
_OPEN = b"0" * 64  # placeholder of the digest while it is computed
METADATA = {_SEAL: (_BEGIN + _OPEN + _END).decode()}  # metadata that a file needs before `seal_file`


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values with their seal, atomically.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    write_atomic(path, sealed_text(values))


def sealed_text(values: dict[str, Any]) -> str:
    """JSON values with their seal, as the text of a file."""
    values = json.loads(json.dumps(values, allow_nan=False))  # as they will be read: string keys, no tuples
    return _text({**values, _SEAL: digest_json(values)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read the values of a file of `write_sealed`, without the seal; even a changed space is an error.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        A byte has changed, or the file has no seal.
    """
    text = path.read_bytes().decode("utf-8")
    values, sealed = _parsed(text)
    if not sealed:
        raise ValueError("it has no seal")
    if text != _text({**values, _SEAL: digest_json(values)}):
        raise ValueError("changed since it was written")
    return values


def read_values(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a JSON object with an optional seal: its values without the seal, and whether it has one.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        The file is not a JSON object, or a value has changed since it was sealed.
    """
    return _parsed(path.read_bytes().decode("utf-8"))


def read_record(file: Path, newest: int, shape: dict[str, Shape], remedy: str) -> dict[str, Any]:
    """Read a JSON record with a `format` number, sealed or (of version 0.1.0) unsealed.

    Parameters
    ----------
    newest : int
        The newest supported format.
    shape : dict
        The shape of the record without `format`, see :mod:`mmfeat.common.json_shapes`.
    remedy : str
        The end of the error message: the action for the user.

    Returns
    -------
    dict
        The record without the seal.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file cannot be read, is damaged, or has a newer format. The message is one line that names the file.
    """
    try:
        record, sealed = read_values(file)
        if FILES in record and not sealed:
            raise ValueError("its seal is missing")
        version = record.get("format")
        if type(version) is not int:
            raise ValueError("it has no format")
        if version <= newest and (why := misfit(record, {**shape, f"?{FILES}": _FILES_SHAPE})):
            raise ValueError(why)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: damaged: {why}. {remedy}") from None
    if version > newest:
        raise ValueError(f"{file}: has format {version}, this mmfeat reads up to {newest}. Update mmfeat")
    return record


def seal_folder(folder: Path, name: str, values: dict[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """Write the sealed record `folder/name`, which contains the digests of the folder's files.

    Parameters
    ----------
    names : iterable of str, optional
        The files to seal; by default all files in the folder and its subfolders.

    Returns
    -------
    dict
        The record without the seal.
    """
    if names is None:
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    values = {**values, FILES: {one: digest_of(folder / one) for one in sorted(names) if one != name}}
    write_sealed(folder / name, values)
    return values


def digest_of(path: Path) -> dict[str, Any]:
    """A file's `size` and `sha256`, in the form of a record."""
    return {"size": path.stat().st_size, "sha256": digest_file(path)}


def seal_file(path: Path) -> None:
    """Fill in the seal of a Parquet or safetensors file that was written with `METADATA` among its metadata.

    The digest covers the whole file, including header and footer; its own place counts as zeros.
    """
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at, digest = _find(content, _BEGIN + _OPEN + _END), hashlib.sha256(content).hexdigest()
        if at < 0:
            raise ValueError(f"{path}: has no place for a seal")
        file.seek(at + len(_BEGIN))
        file.write(digest.encode())


def check_seal(content: bytes | mmap.mmap) -> bool:
    """Check the seal in the content of a Parquet or safetensors file.

    Returns
    -------
    bool
        Whether the file has a seal; files of version 0.1.0 have none.

    Raises
    ------
    ValueError
        A bit has changed since the file was sealed.
    """
    begin, end = _find(content, _BEGIN), _find(content, _END)
    if begin < 0 and end < 0:
        return False
    begin += len(_BEGIN)
    digest = hashlib.sha256()
    with memoryview(content) as view:
        for part in (view[:begin], _OPEN, view[end:]):
            digest.update(part)
            if isinstance(part, memoryview):
                part.release()
    if end - begin != len(_OPEN) or digest.hexdigest().encode() != content[begin:end]:
        raise ValueError("changed since it was written: its seal does not match")
    return True


def check_sealed_file(path: Path) -> bool:
    """Like :func:`check_seal`, for a file that is too large to load into memory.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        A bit has changed since the file was sealed.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return check_seal(content)


def is_sealed_file(path: Path) -> bool:
    """Whether a Parquet or safetensors file has a seal, valid or not."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _find(content, _BEGIN) >= 0 or _find(content, _END) >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _find(content: bytes | mmap.mmap, mark: bytes) -> int:
    """The position of a mark; Parquet has its metadata at the end, safetensors at the beginning."""
    return content.rfind(mark) if content[:4] == b"PAR1" else content.find(mark)


def _parsed(text: str) -> tuple[dict[str, Any], bool]:
    """A JSON object without its seal, and whether it has one. Raises ValueError if the seal does not match."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    if _SEAL not in values:
        return values, False
    if values.pop(_SEAL) != digest_json(values):
        raise ValueError("changed since it was written: its seal does not match")
    return values, True


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
