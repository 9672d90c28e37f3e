"""Sealed safetensors files with named arrays, such as cached logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmfeat.common.files import atomic_path
from mmfeat.common.seals import METADATA, check_seal, seal_file


def write_arrays(file: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write named arrays and the file's metadata, atomically.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # save_file ignores strides
    with atomic_path(file) as temporary:
        save_file(arrays, temporary, {**metadata, **METADATA})
        seal_file(temporary)


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays and metadata of a file of `write_arrays`, or of an unsealed one of version 0.1.0.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file has changed since it was written, or is not a safetensors file.
    """
    from safetensors.numpy import load

    try:
        with file.open("rb") as opened:
            content = opened.read()
        check_seal(content)
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return arrays, dict(header.get("__metadata__", {}))
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors has an exception of its own for each kind of damage
        raise ValueError(" ".join(str(error).split())[:200]) from None
