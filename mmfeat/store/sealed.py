"""Small JSON files that show every change: they hold the digest of their own values, and are written in one way only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmfeat.files import digest_json, write_atomic

_SEAL = "seal"


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values with their seal, atomically.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    write_atomic(path, _text({**values, _SEAL: digest_json(values)}))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the seal.

    Raises
    ------
    OSError
        It is not there, or cannot be read.
    ValueError
        A byte of it has changed.
    """
    text = path.read_bytes().decode("utf-8")
    values = json.loads(text)
    if not isinstance(values, dict) or text != _text(values):
        raise ValueError("not as it was written")
    seal = values.pop(_SEAL, None)
    if seal != digest_json(values):
        raise ValueError("its seal does not fit")
    return values


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
