"""The folder of an exported model: what lies in it, and whether all of it is there as it was written.

DIR/mmfeat.json            format, classes, thresholds, encoders, heads, the run's figures; digests of all other files
README.md                  the model card
heads.safetensors          heads and linear outputs (heads.onnx)
encoders/NAME/             weights.safetensors (model.onnx); a text encoder's tokenizer and configuration
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmfeat.errors import RunError, one_line
from mmfeat.files import digest_file, flush_file, flush_folder
from mmfeat.store.sealed import read_sealed, write_sealed

FORMAT = 1
RECORD = "mmfeat.json"
CARD = "README.md"
RUNTIMES = ("torch", "onnx")
_KEYS = ("runtime", "classes", "predict", "encoders", "model", "embeddings", "files", "run")
_AGAIN = "Export the model again"


def encoder_folder(folder: Path, name: str) -> Path:
    """Where an encoder's files lie."""
    return folder / "encoders" / name


def seal_folder(folder: Path, record: dict[str, Any]) -> None:
    """Write mmfeat.json over all files that lie in a folder now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": digest_file(path)}
        for path in files
    }
    write_sealed(folder / RECORD, {"format": FORMAT, **record, "files": listed})


def read_folder(folder: Path) -> dict[str, Any]:
    """The record of a whole and unchanged folder. The model card may have been edited.

    Raises
    ------
    RunError
        It is no exported model, incomplete, changed, or of a newer format.
    """
    file = folder / RECORD
    if not file.is_file():
        what = f"no {RECORD} there" if folder.is_dir() else "no such folder"
        raise RunError(f"{folder}: no exported model ({what}). Make one: mmfeat export RUN {folder.name or 'DIR'}")
    try:
        record = read_sealed(file)
        version = int(record["format"])
        if version <= FORMAT:
            for key in _KEYS:
                record[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{file}: damaged: {one_line(error)}. {_AGAIN}") from None
    if version > FORMAT:
        raise RunError(f"{file}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")
    if record["runtime"] not in RUNTIMES:
        raise RunError(f"{file}: runtime {str(record['runtime'])[:40]!r}. This mmfeat runs: {', '.join(RUNTIMES)}")
    for name, wanted in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{folder}: incomplete: {name} is not there. {_AGAIN}")
        if name != CARD and (path.stat().st_size != wanted["size"] or digest_file(path) != wanted["sha256"]):
            raise RunError(f"{folder}: {name} has changed since the export. {_AGAIN}")
    return record


def size_mb(folder: Path) -> float:
    """Megabytes (10^6 bytes) of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def publish(staged: Path, destination: Path) -> None:
    """Make a filled folder appear under its name.

    Raises
    ------
    RunError
        Something else has appeared there.
    """
    mode = (staged / RECORD).stat().st_mode
    for path in staged.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors leaves its files to their owner alone
            flush_file(path)
    try:
        os.rename(staged, destination)
    except OSError as error:
        raise RunError(f"{destination}: cannot be made: {error.strerror}. Name another folder") from None
    flush_folder(destination.parent)
