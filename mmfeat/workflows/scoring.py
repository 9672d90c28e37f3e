"""From a name (an encoder, a run) to logits of the manifest's rows: what ensembles, tables and predictions share."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmfeat
from mmfeat import config as settings
from mmfeat.devices import torch_device, versions
from mmfeat.encoders.resolve import Identity
from mmfeat.errors import MissingFeatures, RunError
from mmfeat.heads import build_head
from mmfeat.heads.fit import FitData, head_logits
from mmfeat.models.ensembles import weighted_mean
from mmfeat.models.runs import Run, all_runs, read_run
from mmfeat.table import FeatureTable
from mmfeat.workflows.project import Project

_HEAD_CONFIGS = {
    "linear": settings.LinearConfig,
    "concat": settings.LinearConfig,
    "crossattn": settings.CrossAttentionConfig,
}


@dataclass(frozen=True)
class Source:
    """Something that gives logits, with what it knows of which rows.

    Attributes
    ----------
    logits : np.ndarray
        `(N, K)` float32 for the manifest's rows; meaningless where not `known`.
    known : np.ndarray
        `(N,)` bool: the row has the modality, or one of them, and its features were there.
    """

    name: str
    logits: np.ndarray
    known: np.ndarray


def find_run(project: Project, name: str) -> Run:
    """A run by its name.

    Raises
    ------
    RunError
        No such run; the message names those there are.
    """
    if not re.fullmatch(r"[\w.-]+", name) or not (project.runs / name / "run.json").is_file():
        known = [run.name for run in all_runs(project.runs)] or ["none yet: mmfeat fuse makes one"]
        raise RunError(f"no run {name!r}. There are: {', '.join(known)}")
    return read_run(project.runs / name)


def is_current(project: Project, run: Run) -> bool:
    """Whether a run was made from the encoders as they are now, and for the classes of today."""
    if run.classes != project.manifest.classes:
        return False
    for name, recorded in run.encoders.items():
        if name not in project.config.encoder:
            return False
        identity = project.identity(name)
        if identity.spec.key != recorded["key"] or recorded["output_key"] not in (None, identity.output_key):
            return False
    return True


def recorded_table(project: Project, run: Run, need: np.ndarray, names: list[str] | None = None) -> FeatureTable:
    """The features that a run was made from, by its own recorded keys, whatever mmfeat.toml says today."""
    encoders = {}
    for name in names or list(run.encoders):
        recorded = run.encoders[name]
        features = project.store.find(recorded["key"])
        if features is None:
            raise MissingFeatures(f"{run.name}: the features of encoder {name!r} that it was made from are gone")
        encoders[name] = (features.spec, recorded["output_key"])
    return project.table_of(encoders, need)


def run_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    """Logits of rows by a run: computed from cached features, or read from its logits.h5 where those are gone.

    Raises
    ------
    MissingFeatures
        Neither has them.
    RunError
        The run was made for other classes, or a member of an ensemble is gone.
    """
    if run.classes != project.manifest.classes:
        raise RunError(f"{run.name} was made for other classes. Make it again: mmfeat fuse")
    try:
        return _ensemble_source(project, run, rows) if run.kind == "ensemble" else _head_source(project, run, rows)
    except MissingFeatures:
        return _recorded_source(project, run, rows)


def _head_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    table = recorded_table(project, run, rows).take(rows)
    logits = seeds_logits(run, table, torch_device(project.config.device)).mean(0)
    known = np.any([table.present[name] for name in run.encoders], axis=0)
    return _spread(project, run.name, rows, logits, known)


def _ensemble_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    parts = []
    for member in run.record["members"]:
        name = member["name"]
        if member["fingerprint"] is None:
            table = recorded_table(project, run, rows, [name])
            parts.append(_table_logits(project, table, name, rows))
        else:
            part = find_run(project, name)
            if part.record["fingerprint"] != member["fingerprint"]:
                raise RunError(
                    f"{run.name}: its member {name} has been made anew since. Make it again: mmfeat ensemble"
                )
            parts.append(run_source(project, part, rows))
    return mean_source(run.name, parts, [m["weight"] for m in run.record["members"]], np.array(run.record["prior"]))


def mean_source(name: str, parts: list[Source], weights: list[float], prior: np.ndarray) -> Source:
    """The weighted mean of several sources over those that know a row."""
    logits = weighted_mean([p.logits for p in parts], [p.known for p in parts], weights, prior)
    return Source(name, logits, np.any([p.known for p in parts], axis=0))


def _spread(project: Project, name: str, rows: np.ndarray, logits: np.ndarray, known: np.ndarray) -> Source:
    """Logits of some rows, laid out over all rows of the manifest."""
    n = project.manifest.n_samples
    all_logits, all_known = np.zeros((n, logits.shape[1]), np.float32), np.zeros(n, dtype=bool)
    all_logits[rows], all_known[rows] = logits, known
    return Source(name, all_logits, all_known)


def _table_logits(project: Project, table: FeatureTable, name: str, rows: np.ndarray) -> Source:
    if name not in table.logits:
        raise MissingFeatures(f"features: no logits of encoder {name!r}. Run: mmfeat extract")
    part = table.take(rows)
    known = part.present[name]
    return _spread(project, name, rows, np.where(known[:, None], part.logits[name][:], 0), known)


def seeds_logits(run: Run, table: FeatureTable, device: torch.device) -> np.ndarray:
    """Logits `(S, n, K)` of a table's rows by each seed's head."""
    inputs, present = table.to(device, list(run.encoders))
    nothing = np.zeros(0, dtype=int)
    data = FitData(inputs, present, torch.as_tensor(table.labels, device=device), nothing, nothing, nothing)
    config = _HEAD_CONFIGS[run.record["head"]](**run.record["head_config"])
    state, logits = run.state(), []
    for seed in range(len(run.record["seeds"])):
        head = build_head(run.record["head"], data.widths, len(run.classes), config).to(device)
        prefix = f"seed{seed}."
        head.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        logits.append(head_logits(head, data))
    return np.stack(logits)


def _recorded_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    manifest, recorded = project.manifest, run.logits()
    n = manifest.n_samples
    now = input_keys(project, list(run.encoders))
    at = {str(i): number for number, i in enumerate(recorded.ids)}
    logits, known = np.zeros((n, len(run.classes)), np.float32), np.zeros(n, dtype=bool)
    for row in rows.tolist():
        number = at.get(str(manifest.ids[row]))
        if number is None or not np.array_equal(recorded.input_keys[number], now[row]):
            raise MissingFeatures(
                f"{run.name}: the features that it was made from are gone, and it kept no logits of row "
                f"{str(manifest.ids[row])!r}. Make the run again: mmfeat fuse"
            )
        logits[row], known[row] = recorded.logits[number], True
    return Source(run.name, logits, known)


def input_keys(project: Project, names: list[str]) -> np.ndarray:
    """Digest of the row keys that some encoders read, `(N, 32)` uint8."""
    modalities = sorted({project.config.encoder[n].modality if n in project.config.encoder else "text" for n in names})
    keys = [project.kept_keys(modality) for modality in modalities]
    joined = np.concatenate([np.where(k.present[:, None], k.keys, 0) for k in keys], axis=1)
    return np.frombuffer(b"".join(hashlib.sha256(row.tobytes()).digest() for row in joined), np.uint8).reshape(-1, 32)


def encoder_source(project: Project, identity: Identity, rows: np.ndarray) -> Source:
    """Logits of rows by an encoder's own output.

    Raises
    ------
    RunError
        The encoder has no output, or its logits are not in the store.
    """
    if identity.output_key is None:
        raise RunError(f"encoder {identity.name!r} gives no logits yet. Run: mmfeat finetune {identity.name} --freeze")
    table = project.table([identity.name], rows)
    return _table_logits(project, table, identity.name, rows)


def source(project: Project, name: str, rows: np.ndarray) -> Source:
    """Logits by an encoder's or a run's name."""
    if name in project.config.encoder:
        return encoder_source(project, project.identity(name), rows)
    return run_source(project, find_run(project, name), rows)


def encoder_record(identity: Identity, uses_logits: bool) -> dict[str, Any]:
    """What a run keeps of an encoder."""
    return {
        "key": identity.spec.key,
        "output_key": identity.output_key if uses_logits else None,
        "model": identity.model,
        "modality": identity.spec.modality,
        "checkpoint": identity.checkpoint,
        "width": identity.width,
        "size_mb": identity.size_mb,
    }


def common_record(project: Project) -> dict[str, Any]:
    """What every run keeps: when, with which settings and versions."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        "config": project.config.values(),
        "origins": project.config.origins,
        "metric": project.config.metric,
        "versions": versions(),
        "git": git_revision(),
        "classes": list(project.manifest.classes),
    }


def git_revision() -> str | None:
    """Mmfeat's own revision where it runs from a checkout, with `+changes` where files differ from it."""
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
