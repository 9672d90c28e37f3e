"""What an interrupted self-training has done so far: the logits of each round, all else follows from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.files import atomic_path

RESUME = ".resume-selftrain"  # under runs/: what an interrupted self-training has done


def kept_in(folder: Path) -> Callable[[int, Callable[[], Any]], Any]:
    """A memory for :func:`mmfeat.selftrain.rounds.self_train`: a file for each round; a damaged one is made again."""

    def memory(number: int, make: Callable[[], Any]) -> Any:
        file = folder / f"round-{number}.npz"
        with (
            contextlib.suppress(Exception),
            np.load(file) as found,
        ):  # numpy's and zipfile's own, for each kind of damage
            return found["fused"], found["mlp"]
        fused, mlp = make()
        with atomic_path(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, fused=fused, mlp=mlp)
        return fused, mlp

    return memory
