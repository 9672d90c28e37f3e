"""What is only remembered (`.mmfeat/`, the user's cache folder): used where it is whole, written where it can be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfeat.common.json_shapes import Shape, misfit
from mmfeat.common.seals import read_values, write_sealed


def recall(path: Path, shape: Shape = None) -> dict[str, Any]:
    """Read what `remember` wrote: nothing, where it is absent, damaged or cannot be read.

    Parameters
    ----------
    shape : optional
        What a file that was made before seals must hold, as :func:`mmfeat.common.json_shapes.misfit` takes it; when None, such a file
        counts for nothing.
    """
    try:
        values, sealed = read_values(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return values if sealed or (shape is not None and not misfit(values, shape)) else {}


def remember(path: Path, values: dict[str, Any]) -> None:
    """Keep JSON values for `recall`, where the folder can be written."""
    with if_possible():
        write_sealed(path, values)


@contextlib.contextmanager
def if_possible() -> Iterator[None]:
    """Run a block that writes or removes what is only remembered; a folder that cannot be written costs time, no command."""
    with contextlib.suppress(OSError):
        yield
