"""Named arrays in one sealed safetensors file: results of a model that are not computed again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmfeat.common.files import atomic_path
from mmfeat.common.seals import METADATA, check_seal, seal_file


def write_arrays(file: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays and texts about them, whole or not at all.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from safetensors.numpy import save_file

    arrays = {
        name: np.ascontiguousarray(array) for name, array in arrays.items()
    }  # save_file writes memory as it is laid out
    with atomic_path(file) as temporary:
        save_file(arrays, temporary, {**metadata, **METADATA})
        seal_file(temporary)


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `write_arrays` wrote, or a file that was made before seals; the file is opened once.

    Raises
    ------
    FileNotFoundError
        It is not there.
    ValueError
        A bit of it has changed since it was written, or it is no safetensors file.
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
