"""The folder of an exported model: its files, and the check that they are complete and unchanged.

DIR/mmfeat.json            format, classes, thresholds, encoders, heads, the run's metrics; digests of all other files
README.md                  the model card
heads.safetensors          heads and linear probes (heads.onnx)
encoders/NAME/             weights.safetensors (model.onnx); a text encoder's tokenizer and configuration
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmfeat.common.errors import EncoderError, RunError
from mmfeat.common.files import flush_file, flush_folder
from mmfeat.common.json_shapes import ANYTHING, Choice, Number, Shape, misfit
from mmfeat.common.seals import FILES, read_record
from mmfeat.common.verified import damaged_file
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.encoders.kinds import kind_of_record
from mmfeat.metrics.decision_rule import DECISION

FORMAT = 1
RECORD = "mmfeat.json"
CARD = "README.md"
RUNTIMES = ("torch", "onnx")


_AGAIN = "Export the model again"
_ENCODER: Shape = {
    "modality": str,
    "width": Number(int, low=1),
    "key": str,
    "precision": Choice(ImageEncoderConfig.__dataclass_fields__["precision"].metadata["choices"]),
    "?kind": str,
}
_RECORD: dict[str, Shape] = {
    "runtime": str,
    "classes": [str],
    "predict": {**DECISION, "?fitted": str},
    "separator": str,
    "embeddings": Choice(("float16", "float32")),
    "encoders": {str: _ENCODER},
    "model": {str: ANYTHING},
    "run": {"name": str},
    FILES: {str: ANYTHING},
}


def encoder_folder(folder: Path, name: str) -> Path:
    """The folder of an encoder's files."""
    return folder / "encoders" / name


def read_folder(folder: Path) -> dict[str, Any]:
    """The record of a complete and unchanged folder; only the model card may have been edited.

    Raises
    ------
    RunError
        The folder is not an exported model, or is incomplete, changed, or of a newer format.
    """
    file = folder / RECORD
    if not file.is_file():
        what = f"no {RECORD} there" if folder.is_dir() else "no such folder"
        raise RunError(f"{folder}: not an exported model ({what}). Make one with: mmfeat export RUN DIR, and name DIR")
    try:
        record = read_record(file, FORMAT, shape=_RECORD, remedy=_AGAIN)
        if record["runtime"] not in RUNTIMES:
            raise ValueError(f"{file}: runtime {record['runtime'][:40]!r}. This mmfeat runs: {', '.join(RUNTIMES)}")
        if why := _disagreement(record):
            raise ValueError(f"{file}: damaged: {why}. {_AGAIN}")
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from None
    files = record[FILES]
    if CARD in files and not (folder / CARD).is_file():
        raise RunError(f"{folder}: incomplete: {CARD} is missing. {_AGAIN}")
    name, why = damaged_file(folder, files, [name for name in files if name != CARD])
    if name and not (folder / name).is_file():
        raise RunError(f"{folder}: incomplete: {name} is missing. {_AGAIN}")
    if name:
        raise RunError(f"{folder}: {name} has changed since the export: {why}. {_AGAIN}")
    return record


def _disagreement(record: dict[str, Any]) -> str:
    """How the record contradicts itself; empty if it is consistent."""
    n, threshold = len(record["classes"]), record["predict"]["threshold"]
    if not n or len(set(record["classes"])) < n:
        return "classes are empty, or one occurs twice"
    if isinstance(threshold, list) and len(threshold) != n:
        return f"predict.threshold has {len(threshold)} values for {n} classes"
    if not record["encoders"]:
        return "encoders are empty"
    if not record["separator"]:
        return "separator is empty"
    for name, one in record["encoders"].items():
        try:
            shape = kind_of_record(one).record_shape
        except EncoderError as error:
            return f"encoders.{name}: {error}"
        if why := misfit(one, shape, f"encoders.{name}"):
            return why
    return ""


def size_mb(folder: Path) -> float:
    """Megabytes (10^6 bytes) of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def publish(staged: Path, destination: Path) -> None:
    """Publish a filled folder under its final name.

    Raises
    ------
    RunError
        The destination exists.
    """
    mode = (staged / RECORD).stat().st_mode
    for path in staged.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors makes files that only their owner can read
            flush_file(path)
    try:
        os.rename(staged, destination)
    except OSError as error:
        raise RunError(f"{destination}: cannot be made: {error.strerror}. Name another folder") from None
    flush_folder(destination.parent)
