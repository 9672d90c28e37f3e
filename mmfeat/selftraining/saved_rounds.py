"""The state of an interrupted self-training: the logits of each finished round, which determine everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.progress import say
from mmfeat.common.sealed_tensors import read_arrays, write_arrays

_LOGITS = ("fused", "mlp")

RESUME = ".resume-selftrain"  # folder under runs/


def kept_in(folder: Path) -> Callable[[int, Callable[[], Any]], Any]:
    """A memory for :func:`mmfeat.selftraining.rounds.self_train`: one sealed file per round. A damaged file is recomputed.

    Another process that finishes the same self-training first removes the folder; the round is then not saved.
    """

    def memory(number: int, make: Callable[[], Any]) -> Any:
        file, whose = folder / f"round-{number}.safetensors", {"round": f"{number} of {folder.name}"}
        if (found := _kept(file, whose)) is not None:
            return found
        logits = make()
        try:
            write_arrays(file, dict(zip(_LOGITS, logits, strict=True)), whose)
        except Exception:  # safetensors has its own
            if folder.is_dir():
                raise
        return logits

    return memory


def _kept(file: Path, whose: dict[str, str]) -> tuple[np.ndarray, ...] | None:
    try:
        arrays, about = read_arrays(file)
        if about["round"] != whose["round"]:
            raise ValueError(f"it belongs to round {about['round']}")
        return tuple(arrays[name] for name in _LOGITS)
    except FileNotFoundError:
        return _kept_before_seals(file.with_suffix(".npz"))
    except (OSError, ValueError, KeyError) as error:
        say(f"{file}: damaged: {error}. The round is computed again")
        return None


def _kept_before_seals(file: Path) -> tuple[np.ndarray, ...] | None:
    with (
        contextlib.suppress(Exception),
        np.load(file) as found,
    ):  # numpy and zipfile raise many exceptions for damaged files
        return tuple(found[name] for name in _LOGITS)
    return None
