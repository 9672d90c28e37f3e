"""Seals: files that hold the digest of their own content, so that every change of a bit in them shows.

- A JSON file of ours holds the digest of its values under `seal`. A record of a folder also holds `files`: size and
  SHA-256 of the folder's other files (:func:`seal_folder`). They are checked by :mod:`mmfeat.common.verified`.
- A Parquet or safetensors file of ours holds in its metadata the digest of all its other bytes (:func:`seal_file`).

What version 0.1.0 wrote has no seal and is read without one. A seal finds damage, not forgery: whoever changes a file on
purpose can seal it again.
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

FILES = "files"  # in a sealed record: name to size and sha256; a record without it was made before seals
_SEAL = "seal"
_FILES_SHAPE: Shape = {str: {"size": int, "sha256": str}}
_BEGIN, _END = b"mmfeat-seal:", b":end-of-seal"  # two marks: one flipped bit cannot hide that there is a seal
_OPEN = b"0" * 64  # what stands between them while the digest is computed
METADATA = {_SEAL: (_BEGIN + _OPEN + _END).decode()}  # what a file's metadata needs before `seal_file`


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values with their seal, atomically.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    values = json.loads(json.dumps(values, allow_nan=False))  # as they will be read: keys of str, lists
    write_atomic(path, _text({**values, _SEAL: digest_json(values)}))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the seal; a space that has changed counts as well.

    Raises
    ------
    OSError
        It is not there, or cannot be read.
    ValueError
        A byte of it has changed, or it has no seal.
    """
    text = path.read_bytes().decode("utf-8")
    values, sealed = _parsed(text)
    if not sealed:
        raise ValueError("it has no seal")
    if text != _text({**values, _SEAL: digest_json(values)}):
        raise ValueError("not as it was written")
    return values


def read_values(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a JSON object that may have a seal: its values without it, and whether it has one.

    Raises
    ------
    OSError
        It is not there, or cannot be read.
    ValueError
        It is not a JSON object, or a value of it has changed since it was sealed.
    """
    return _parsed(path.read_bytes().decode("utf-8"))


def read_record(file: Path, newest: int, shape: dict[str, Shape], remedy: str) -> dict[str, Any]:
    """Read a JSON object with a `format`: one with a seal, or one that was made before seals.

    Parameters
    ----------
    newest : int
        The newest format that is understood.
    shape : dict
        Its required keys beside `format`, as :func:`mmfeat.common.json_shapes.misfit` takes it.
    remedy : str
        What the error tells the user to do.

    Returns
    -------
    dict
        Its values without the seal.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It cannot be read, is damaged, or of a newer format; one line with the file's name.
    """
    try:
        record, sealed = read_values(file)
        if FILES in record and not sealed:
            raise ValueError("its seal is gone")
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
    """Write the sealed record `folder/name` of the files that lie in a folder now.

    Parameters
    ----------
    names : iterable of str, optional
        The files that it seals; all in the folder and below it, when None.

    Returns
    -------
    dict
        What was written, without the seal.
    """
    if names is None:
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    values = {**values, FILES: {one: digest_of(folder / one) for one in sorted(names) if one != name}}
    write_sealed(folder / name, values)
    return values


def digest_of(path: Path) -> dict[str, Any]:
    """A file's `size` and `sha256`, as records hold them."""
    return {"size": path.stat().st_size, "sha256": digest_file(path)}


def seal_file(path: Path) -> None:
    """Complete the seal of a Parquet or safetensors file that was written with `METADATA` among its metadata.

    The digest is of the whole file with zeros in its own place: header and footer count as well as the data.
    """
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at, digest = _find(content, _BEGIN + _OPEN + _END), hashlib.sha256(content).hexdigest()
        if at < 0:
            raise ValueError(f"{path}: has no place for a seal")
        file.seek(at + len(_BEGIN))
        file.write(digest.encode())


def check_seal(content: bytes | mmap.mmap) -> bool:
    """Whether a Parquet or safetensors file's content has a seal; one that was made before seals has none.

    Raises
    ------
    ValueError
        A bit of it has changed since it was sealed.
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
        raise ValueError("changed since it was written: its seal does not fit")
    return True


def check_sealed_file(path: Path) -> bool:
    """The same of a file that is too large to be read as a whole.

    Raises
    ------
    OSError
        It is not there, or cannot be read.
    ValueError
        A bit of it has changed since it was sealed.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return check_seal(content)


def is_sealed_file(path: Path) -> bool:
    """Whether a Parquet or safetensors file has a seal, right or wrong."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _find(content, _BEGIN) >= 0 or _find(content, _END) >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _find(content: bytes | mmap.mmap, mark: bytes) -> int:
    """Where a mark stands: Parquet has its metadata at the end, safetensors at the beginning."""
    return content.rfind(mark) if content[:4] == b"PAR1" else content.find(mark)


def _parsed(text: str) -> tuple[dict[str, Any], bool]:
    """A JSON object without its seal, and whether it has one. Raises ValueError where the seal does not fit."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    if _SEAL not in values:
        return values, False
    if values.pop(_SEAL) != digest_json(values):
        raise ValueError("changed since it was written: its seal does not fit")
    return values, True


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
