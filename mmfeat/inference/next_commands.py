"""The command to type next: one that works in the project's present state, and whose result does not exist yet."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.config.read_keys import about_unread, decision_keys, fuse_keys, selftrain_keys
from mmfeat.config.schema import HEAD, HEAD_ALONE, Config
from mmfeat.inference.logits import probe_table
from mmfeat.project.audit_record import audit_file
from mmfeat.project.project import Project
from mmfeat.project.staleness import state_of
from mmfeat.runs.ensembles import RECIPE_HEADS
from mmfeat.runs.run import RECORD, Run, all_runs

if TYPE_CHECKING:
    from mmfeat.inference.run_ranking import RankedRun

RUNS, EXTRACT = "mmfeat runs", "mmfeat extract"
ROUNDS = 5  # of a proposed self-training

_TOP = {"metric": "--metric", "seed": "--seed", "device": "--device"}
_HEAD = {"fuse.head": "--head", "fuse.inputs": "--inputs", "fuse.seeds": "--seeds"}
_ROUNDS = {
    "selftrain.rounds": "--rounds",
    "selftrain.policy": "--policy",
    "selftrain.teacher": "--teacher",
    "selftrain.encoder_every": "--encoder-every",
}
_DECISION = {"predict.threshold": "--threshold", "predict.empty": "--empty", "predict.calibration": "--calibration"}
_OPTIONS = {  # command to its options for single keys; other keys are typed as --set KEY=VALUE
    "fuse": {**_HEAD, "fuse.folds": "--folds"},
    "selftrain": {**_HEAD, **_ROUNDS, "predict.threshold": "--threshold"},
    "ensemble": {"predict.threshold": "--threshold"},
    **dict.fromkeys(("runs", "evaluate", "predict", "export"), _DECISION),
}


def with_options(config: Config, command: str) -> str:
    """A command with the options that were used, as far as it reads their keys and does not have them already."""
    name = command.split()[1]
    if name not in _OPTIONS:
        return command
    reads, options, words = _reads(name, config, command), _TOP | _OPTIONS[name], [command]
    values = dict(config.dotted())
    for key, origin in config.origins.items():
        option = options.get(key)
        if origin != "option" or key not in values or about_unread([key], reads):
            continue
        if f" {option} " in command or f"{key}=" in command:
            continue
        text = _typed(values[key])
        words.append(f"{option} {shlex.quote(text)}" if option else f"--set {shlex.quote(f'{key}={text}')}")
    return " ".join(words)


def _reads(name: str, config: Config, command: str) -> Collection[str]:
    """The keys of mmfeat.toml that a command reads."""
    if name == "fuse":
        return fuse_keys(config)
    if name == "selftrain":
        return selftrain_keys(config)
    if name in ("predict", "export"):
        return decision_keys(config, named=name == "export")
    recipe = ("fuse.inputs",) if command.split()[-1] in RECIPE_HEADS else ()
    return (*recipe, "predict", "metric", "device")


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def after_extract(project: Project, names: Sequence[str] = ()) -> str:
    """Train a head on the project's inputs. If there is a current one: `mmfeat runs`.

    Parameters
    ----------
    names : sequence of str
        The encoders that were extracted; all, if empty.
    """
    if names and not _cached(project, _labelled(project)):
        return EXTRACT
    if _has_run(project, "head", _current(project)):
        return with_options(project.config, RUNS)
    return to_fuse(project)


def after_finetune(project: Project) -> str:
    """Encode what the new checkpoints need, or go on if everything is cached."""
    rows = project.manifest.rows("all")
    try:
        for name in project.config.encoder:
            if project.identity(name).output_key is not None:
                probe_table(project, project.identity(name), rows)
    except MmfeatError:
        return EXTRACT
    return after_extract(project, list(project.config.encoder))


def after_fuse(project: Project, run: Run) -> str:
    """The mean of the encoders' logits and the run's, if it can be made and does not exist; else `mmfeat runs`."""
    config, manifest = project.config, project.manifest
    usual = run.record["head"] in RECIPE_HEADS.values() and len(run.encoders) == 2
    rows = np.concatenate([manifest.rows("val"), manifest.rows("unlabelled")])
    if not usual or not len(rows) or _has_mean_with(project, run):
        return with_options(config, RUNS)
    try:
        for name in run.encoders:
            probe_table(project, project.identity(name), rows)
    except MmfeatError:
        return with_options(config, RUNS)
    return with_options(config, f"mmfeat ensemble {' '.join(run.encoders)} {run.name}")


def after_runs(project: Project, ranked: list[RankedRun]) -> str:
    """Compare the best two, if they were not evaluated yet; without val rows predict; without a run train a head."""
    current = [line for line in ranked if line.run is not None and line.state == "current"]
    scored = [line.name for line in current if line.metrics is not None]
    if scored:
        best = scored[:2]
        if all(_is_evaluated(project, name) for name in best):
            return after_evaluate(project, "val", best)
        return with_options(project.config, f"mmfeat evaluate {' '.join(best)}")
    if current:
        return to_predict(project) or with_options(project.config, f"mmfeat predict {current[0].name} --split all")
    return to_fuse(project) if _cached(project, _labelled(project)) else EXTRACT


def after_evaluate(project: Project, split: str, names: Sequence[str] = ()) -> str:
    """Self-training if there are rows to learn from and it was not done; then predictions; then an export of the first run."""
    manifest, config, current = project.manifest, project.config, _current(project)
    rows = np.concatenate([manifest.rows(which) for which in ("train", "val", "unlabelled")])
    learnable = (manifest.split[manifest.rows("unlabelled")] == "train").any() and len(manifest.rows("val"))
    if split != "test" and learnable and not _has_run(project, "selftrain", current) and _takes_inputs(config):
        command = f"mmfeat selftrain --rounds {ROUNDS}"
        return with_options(config, command) if _cached(project, rows) else EXTRACT
    return _to_predict(project, current) or _to_export(project, current, names) or with_options(config, RUNS)


def after_report(project: Project, of_project: bool) -> str:
    """The report of the best run after that of the project; an audit if there is none; then a review."""
    if of_project:
        return "mmfeat report"
    return "mmfeat review" if audit_file(project).is_file() else "mmfeat audit"


def after_selftrain(project: Project) -> str:
    """Predictions, or `mmfeat runs` if they were made since."""
    return to_predict(project) or with_options(project.config, RUNS)


def to_fuse(project: Project) -> str:
    """`mmfeat fuse` with a head that takes the project's encoders."""
    head = HEAD if len(project.config.fuse.inputs) > 1 else HEAD_ALONE
    return with_options(project.config, f"mmfeat fuse --head {head}")


def to_predict(project: Project) -> str:
    """`mmfeat predict`; empty without unlabelled rows or a current run, or if they were predicted after the newest run."""
    return _to_predict(project, _current(project))


def _to_predict(project: Project, current: list[Run]) -> str:
    rows = project.manifest.rows("unlabelled")
    if not current or not len(rows):
        return ""
    made, predicted = max(map(_time_of, current)), project.root / "predictions.parquet"
    if predicted.is_file() and predicted.stat().st_mtime_ns > made:
        return ""
    return with_options(project.config, "mmfeat predict") if _cached(project, rows) else EXTRACT


def _to_export(project: Project, current: list[Run], names: Sequence[str]) -> str:
    """`mmfeat export` of the first run that needs no imported embeddings; empty if there is none."""
    tables = project.config.encoder
    for run in current:
        if run.name in names[:1] and not any(tables[name].made_elsewhere for name in run.encoders):
            return with_options(project.config, f"mmfeat export {run.name} DIR")
    return ""


def _labelled(project: Project) -> np.ndarray:
    return np.concatenate([project.manifest.rows("train"), project.manifest.rows("val")])


def _current(project: Project) -> list[Run]:
    return [run for run in all_runs(project.runs_folder) if state_of(project, run) == "current"]


def _takes_inputs(config: Config) -> bool:
    """Whether the project's head takes its inputs."""
    if len(config.fuse.inputs) > 1:  # every head takes several
        return True
    from mmfeat.heads import takes  # imports torch

    return takes(config.fuse.head, 1)


def _has_run(project: Project, kind: str, current: list[Run]) -> bool:
    """Whether a run of this kind on the project's inputs is current."""
    inputs = set(project.config.fuse.inputs)
    return any(run.kind == kind and set(run.encoders) == inputs for run in current)


def _has_mean_with(project: Project, head: Run) -> bool:
    """Whether there is a current ensemble without fitted weights that has this head as a member."""
    return any(
        head.name in [member["name"] for member in run.members] and not run.record.get("fitted")
        for run in _current(project)
    )


def _is_evaluated(project: Project, name: str) -> bool:
    """Whether there is a table by class of a run on val that is newer than the run."""
    folder = project.runs_folder / name
    table = folder / "evaluation-val.csv"
    return table.is_file() and table.stat().st_mtime_ns >= (folder / RECORD).stat().st_mtime_ns


def _time_of(run: Run) -> int:
    return (run.folder / RECORD).stat().st_mtime_ns


def cached_apart_from_inputs(project: Project, rows: np.ndarray) -> list[str]:
    """Encoders that are not in `fuse.inputs`, although the store has their embeddings of rows."""
    found = []
    for name in project.config.encoder:
        if name in project.config.fuse.inputs:
            continue
        with contextlib.suppress(MmfeatError):
            if project.known_identity(name) is not None and _cached(project, rows, [name]):
                found.append(name)
    return found


def _cached(project: Project, rows: np.ndarray, names: Sequence[str] = ()) -> bool:
    """Whether the store has the embeddings of rows by encoders; by those of `fuse.inputs`, if none is named."""
    try:
        project.feature_table(list(names or project.config.fuse.inputs), rows)
    except MmfeatError:
        return False
    return True
