"""The provenance that a run records: its encoders, the samples of its rows, the settings and the versions."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import mmfeat
from mmfeat.common.devices import versions
from mmfeat.common.text import utc_time
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project


def encoder_record(
    identity: Identity, uses_logits: bool, tokens: tuple[int, tuple[int, int]] | None = None
) -> dict[str, Any]:
    """The record of an encoder in a run.

    Parameters
    ----------
    tokens : tuple, optional
        For an encoder whose tokens a head reads: `tokens` of mmfeat.toml, and their T and d.
    """
    read = {"tokens": tokens[0], "token_shape": list(tokens[1])} if tokens else {}
    return {
        "key": identity.spec.key,
        "output_key": identity.output_key if uses_logits else None,
        "model": identity.model,
        "modality": identity.spec.modality,
        "checkpoint": identity.checkpoint,
        "width": identity.width,
        "size_mb": identity.size_mb,
        **read,
    }


def input_keys(project: Project, encoders: Iterable[dict[str, Any]], rows: np.ndarray) -> np.ndarray:
    """The row keys of the samples that encoders read, `(n, 32 M)` uint8 for their M modalities; zeros for a missing one."""
    keys = [project.kept_keys(modality) for modality in sorted({e["modality"] for e in encoders})]
    return np.concatenate([np.where(k.present[rows, None], k.keys[rows], 0) for k in keys], axis=1)


def common_record(project: Project) -> dict[str, Any]:
    """The part of the record that every run has: time, settings, versions, classes."""
    return {
        "created": utc_time(time.time_ns()),
        "config": project.config.values(),
        "origins": project.config.origins,
        "metric": project.config.metric,
        "versions": versions(),
        "git": git_revision(),
        "classes": list(project.manifest.classes),
    }


def git_revision() -> str | None:
    """The revision of mmfeat if it runs from a git checkout, with `+changes` if files differ from it."""
    folder = Path(mmfeat.__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
