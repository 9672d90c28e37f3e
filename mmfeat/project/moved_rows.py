"""Rows whose split has changed, and the checkpoints and runs that were trained on rows that are now val or test."""

from __future__ import annotations

import contextlib
from collections import Counter

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import has_label
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.difference import same_rows
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.checkpoint import Checkpoint, checkpoints_of
from mmfeat.runs.run import Run, all_runs


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
    models = _models(config)
    trained = [(one, n) for one in models if (n := _count(one, scored, 0))]
    chosen = [(one, n) for one in models if (n := _count(one, after.ids[rows[(was != now) & (now == "test")]], 1))]
    command = _train_again([one for one, _ in trained])
    if trained:
        lines.append(
            f"  Trained on rows that are now val or test: {_named(trained)}. Their metrics there are in-sample. Train again, "
            f"starting with: {command}"
        )
    if chosen:
        lines.append(f"  Epochs or members selected on rows that are now test: {_named(chosen)}")
    return lines, command


def _models(config: Config) -> list[Checkpoint | Run]:
    """Checkpoints and runs that can be read. Damaged ones are left out: `mmfeat status` reports them."""
    models: list[Checkpoint | Run] = []
    for name in config.encoder:
        with contextlib.suppress(MmfeatError):
            models += checkpoints_of(config.root / "checkpoints", name)
    return [*models, *all_runs(config.root / "runs")]


def _count(model: Checkpoint | Run, ids: np.ndarray, which: int) -> int:
    """How many of these rows a model was trained on (0) or selected on (1)."""
    with contextlib.suppress(MmfeatError):
        return int(model.learned().among(ids)[which].sum())
    return 0


def _named(models: list[tuple[Checkpoint | Run, int]]) -> str:
    return ", ".join(f"{one.name} ({counted(n, 'row')})" for one, n in models)


def _train_again(models: list[Checkpoint | Run]) -> str:
    """The first command that trains these models again; empty without any."""
    fitted = [one for one in models if isinstance(one, Checkpoint)]
    if not fitted:
        return "mmfeat fuse" if models else ""
    return "mmfeat finetune --freeze" if all(one.label_free for one in fitted) else "mmfeat finetune"
