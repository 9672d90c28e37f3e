"""`mmfeat status`: how many rows the store has for each encoder, and why others are missing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from mmfeat.common.errors import EncoderError, MmfeatError
from mmfeat.common.remembered import Remembered, stamps_of
from mmfeat.common.text import counted
from mmfeat.data.seen import load_before
from mmfeat.encoders.checkpoint import checkpoints_of
from mmfeat.project.cached_rows import cached_rows
from mmfeat.project.damage import project_seals
from mmfeat.project.project import Project
from mmfeat.project.project_folder import MANIFEST
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.project.staleness import about_relabelled, labels_now
from mmfeat.report.result import Record, TableResult
from mmfeat.runs.run import LOGITS_FILE, RECORD, Run, all_runs
from mmfeat.store.cache_status import EncoderStatus, StoredEncoder, stored_encoders
from mmfeat.store.references import all_references
from mmfeat.training.cut_plan import configured_fronts


@dataclass(frozen=True, kw_only=True, repr=False)
class StatusResult(TableResult):
    """The state of a project.

    Attributes
    ----------
    encoders : list of EncoderStatus
        Counts of cached, missing, stale and unreadable rows, and of missing modalities, for each encoder that can be built.
    failures : dict of str to str
        Encoder to the reason why it cannot be built.
    flat : list of str
        Ids of encoded images of one colour, or nearly so.
    damaged : list of str
        A line for each run and checkpoint with a missing or changed file.
    unsealed : str
        One line that counts files without a seal, which an earlier version made; empty if there are none.
    relabelled : list of str
        Runs that learned some rows with other labels than they have now.
    stored : list of StoreLine
        Contents of the store. Empty unless requested.
    """

    encoders: list[EncoderStatus]
    failures: dict[str, str]
    checkpoints: dict[str, str | None]
    problems: list[str]
    n_runs: int
    n_rows: int
    has_outputs: bool
    flat: list[str]
    damaged: list[str]
    unsealed: str
    relabelled: list[str]
    stored: list[StoreLine] = field(default_factory=list)

    def _about(self) -> str:
        text = f"{counted(self.n_rows, 'row')}, {counted(self.n_runs, 'run')}"
        return "\n".join([text, *self.failures.values(), *self.damaged])

    def _table(self) -> list[Record]:
        return [
            {
                "encoder": one.name,
                "model": one.model,
                "cached": one.cached,
                "missing": one.missing,
                "stale": one.stale,
                "unreadable": one.unreadable,
                "missing modality": one.absent,
                "why": one.why,
            }
            for one in self.encoders
        ]

    @property
    def remedy(self) -> str:
        """The command for the first encoder that cannot be built."""
        command = next(iter(self.failures.values())).rpartition("Run: ")
        return command[2] if command[1] else "edit mmfeat.toml, then: mmfeat status"


def status(project: Project, rehash: bool = False) -> StatusResult:
    """Count the rows of every encoder. Nothing is encoded; only changed images are read, or all with `rehash`."""
    if rehash:
        project.rehash()
    found, failures, checkpoints = [], {}, {}
    for name, table in project.config.encoder.items():
        try:
            identity = project.identity(name)
        except EncoderError as error:
            failures[name] = str(error)
            continue
        again = rows_to_decode_again(project, identity, look=False)
        seen = load_before(project.samples.seen(table.modality), project.manifest.ids)
        found.append(cached_rows(project, identity, again=again, seen=seen))
        checkpoints[name] = identity.checkpoint
    seals = project_seals(project)
    flat = sorted({row for one in found for row in one.flat})
    return StatusResult(
        encoders=found,
        failures=failures,
        checkpoints=checkpoints,
        problems=project.store.problems,
        n_runs=seals.n_runs,
        n_rows=project.manifest.n_samples,
        has_outputs=bool(checkpoints) and all(checkpoints.values()),
        flat=[str(project.manifest.ids[row]) for row in flat],
        damaged=seals.damaged,
        unsealed=seals.unsealed,
        relabelled=_relabelled(project),
    )


def _relabelled(project: Project) -> list[str]:
    """Runs that learned some rows with other labels, cached while the manifest and the runs stay the same."""
    runs = all_runs(project.runs_folder)
    if not runs:
        return []
    memory, files = Remembered(project.memory / "relabelled.json"), stamps_of([project.root / MANIFEST, *_files(runs)])
    found = memory.recall("runs", names := [run.name for run in runs])
    if found is None:
        now = labels_now(project)
        found = [run.name for run in runs if about_relabelled(run, now)]
        memory.remember("runs", found, names, files=files)
        memory.save()
    return found


def _files(runs: list[Run]) -> list[Path]:
    return [run.folder / name for run in runs for name in (RECORD, LOGITS_FILE)]


@dataclass(frozen=True, kw_only=True)
class StoreLine:
    """One encoder of the store, and which encoders and other projects refer to it.

    Attributes
    ----------
    used_by : list of str
        Encoders and runs of this project, and the folders of others.
    """

    stored: StoredEncoder
    used_by: list[str]


def store_status(project: Project) -> list[StoreLine]:
    """The encoders of the store with their size, age and users.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    named: dict[str, list[str]] = {}
    for name in project.config.encoder:
        try:
            named.setdefault(project.identity(name).spec.key, []).append(f"encoder {name}")
        except MmfeatError:  # reported by `status`
            continue
    with contextlib.suppress(MmfeatError):
        for name, keys in configured_fronts(project).items():
            for key in keys:
                named.setdefault(key, []).append(f"encoder {name}")
    for name in project.config.encoder:
        for checkpoint in checkpoints_of(project.checkpoints, name):
            for key in checkpoint.front["keys"]:
                named.setdefault(key, []).append(checkpoint.name)
    for run in all_runs(project.runs_folder):
        for encoder in run.encoders.values():
            named.setdefault(encoder["key"], []).append(run.name)
        for key in run.baseline_keys:
            named.setdefault(key, []).append(f"a baseline of {run.name}")
    for other in all_references(project.store.path):
        for key in other.encoders if other.project != str(project.root) else ():
            named.setdefault(key, []).append(other.project)
    return [
        StoreLine(stored=one, used_by=list(dict.fromkeys(named.get(one.spec.key, []))))
        for one in stored_encoders(project.store)
    ]
