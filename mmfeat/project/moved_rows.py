"""Rows whose split has changed, and the checkpoints and runs that were trained on rows that are now val or test."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import has_label
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.difference import same_rows
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.checkpoint import checkpoints_of
from mmfeat.runs.run import all_runs


def about_moves(config: Config, before: Manifest, after: Manifest) -> tuple[list[str], str]:
    """Lines about moved rows and the models that have seen them, and the command that trains again; empty without any."""
    old = same_rows(before.ids, after.ids)
    labelled = has_label(after.labels) & (old >= 0)
    labelled[labelled] = has_label(before.labels)[old[labelled]]
    rows = np.flatnonzero(labelled)
    was, now = before.split[old[rows]], after.split[rows]
    moved = Counter((a, b) for a, b in zip(was.tolist(), now.tolist(), strict=True) if a != b)
    if not moved:
        return [], ""
    parts = [f"{counted(n, 'row')} moved from {a} to {b}" for (a, b), n in moved.items()]
    lines = [f"  {', '.join(parts)}"]
    scored = after.ids[rows[(was != now) & (now != "train")]]
    seen, command = _learners(config, scored)
    if seen:
        lines.append(
            f"  Trained on rows that are now val or test: {', '.join(seen)}. Their metrics there are in-sample. Train again, "
            f"starting with: {command}"
        )
    return lines, command


def _learners(config: Config, ids: np.ndarray) -> tuple[list[str], str]:
    """The checkpoints and runs that were trained on any of these rows, with the number of rows, and the first command."""
    checkpoints: list[Any] = []
    for name in config.encoder:
        with contextlib.suppress(MmfeatError):
            checkpoints += checkpoints_of(config.root / "checkpoints", name)
    fitted = _seen_by(checkpoints, ids)
    runs = _seen_by(all_runs(config.root / "runs"), ids)
    seen = [f"{one.name} ({counted(n, 'row')})" for one, n in [*fitted, *runs]]
    if not fitted:
        return seen, "mmfeat fuse" if seen else ""
    return seen, "mmfeat finetune --freeze" if all(one.frozen for one, _ in fitted) else "mmfeat finetune"


def _seen_by(models: Sequence[Any], ids: np.ndarray) -> list[tuple[Any, int]]:
    """The models that were trained on any of these rows, with their number. Damaged ones are left out: others report them."""
    found = []
    for model in models:
        with contextlib.suppress(MmfeatError):
            if n := int(model.learned().among(ids)[0].sum()):
                found.append((model, n))
    return found
