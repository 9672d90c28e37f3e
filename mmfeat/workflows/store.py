"""`mmfeat store`: verify its files, remove unused features, export aligned arrays."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mmfeat.common.errors import ConfigError, EncoderError, RunError, StoreError
from mmfeat.common.files import digest_bytes, digest_json, remove_leftovers
from mmfeat.common.labels import split_names
from mmfeat.common.progress import progress
from mmfeat.common.text import counted
from mmfeat.common.urls import refuse_url
from mmfeat.encoders.checkpoint import Checkpoint, read_checkpoint
from mmfeat.project.project import Project
from mmfeat.report.result import Record, TableResult
from mmfeat.runs.run import all_runs, damaged_runs
from mmfeat.selftraining.saved_rounds import RESUME
from mmfeat.store.commits import THUMBNAILS, tokens_kind
from mmfeat.store.encoder_record import encoder_folders
from mmfeat.store.feature_table import FeatureTable
from mmfeat.store.garbage import Garbage, find_garbage, remove_garbage
from mmfeat.store.references import (
    References,
    Settled,
    all_references,
    forget_references,
    new_references,
    settle_references,
)
from mmfeat.store.table_exports import arrays_of, export_table
from mmfeat.store.thumbnail_store import THUMBNAILS_KEY
from mmfeat.store.verify import Verified, size_of, verify_encoder, verify_thumbnails
from mmfeat.training.cut_plan import configured_fronts

# Checkpoints of comparisons and sweeps: a project refers to their features as long as it keeps these folders.
ELSEWHERE = ("comparisons/*/*/*/checkpoints/*/checkpoint.json", "sweeps/*/*/checkpoints/*/checkpoint.json")
INTERRUPTED = f"runs/{RESUME}/*/encoders-*/checkpoints/*/checkpoint.json"  # of a self-training that can be resumed


@dataclass(frozen=True, kw_only=True, repr=False)
class VerifyResult(TableResult):
    """The result of a verification by folder of the store, and its duration in seconds."""

    found: dict[str, Verified]
    seconds: float

    @property
    def problems(self) -> list[str]:
        """Every problem, a line each."""
        return [problem for one in self.found.values() for problem in one.problems]

    def _about(self) -> str:
        n_files = sum(one.n_files for one in self.found.values())
        return f"{counted(n_files, 'file')} read, {len(self.problems) or 'none'} damaged"

    def _table(self) -> list[Record]:
        return [
            {
                "encoder": name,
                "files": one.n_files,
                "rows": one.n_rows,
                "MB": one.n_bytes / 1e6,
                "damaged": len(one.problems),
            }
            for name, one in self.found.items()
        ]


def verify_store(project: Project) -> VerifyResult:
    """Read every file of the project's store and compare it with its checksum.

    Damaged files are no longer read: their rows are missing, and `mmfeat extract` encodes them again.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    start = time.perf_counter()
    folders, found = encoder_folders(project.store.path), {}
    thumbnails = project.store.path / THUMBNAILS
    folders += [thumbnails] if thumbnails.is_dir() else []
    with progress("verifying", sum(map(size_of, folders)) // 2**20, "MiB") as bar:
        done = 0

        def advance(n_bytes: int) -> None:
            nonlocal done
            before, done = done // 2**20, done + n_bytes
            bar.advance(done // 2**20 - before)

        for folder in folders:
            verify = verify_thumbnails if folder == thumbnails else verify_encoder
            found[folder.name] = verify(folder, advance)
    return VerifyResult(found=found, seconds=time.perf_counter() - start)


@dataclass(frozen=True, kw_only=True, repr=False)
class GarbageResult(TableResult):
    """The features that can be removed, and the references that keep the others.

    Attributes
    ----------
    others : list of References
        Other projects that use the store.
    own : References
        References of the project itself.
    settled : Settled
        Imports that mmfeat.toml does not name yet, and notes that go with the garbage.
    """

    garbage: list[Garbage]
    others: list[References]
    own: References
    settled: Settled

    @property
    def n_bytes(self) -> int:
        """Bytes that can be freed."""
        return sum(one.n_bytes for one in self.garbage)

    def _about(self) -> str:
        if not self.garbage:
            return "There is nothing to remove"
        return f"{counted(len(self.garbage), 'item')} that nothing refers to, {self.n_bytes / 1e6:,.1f} MB"

    def _table(self) -> list[Record]:
        return [{"what": one.name, "MB": one.n_bytes / 1e6, "why": one.why} for one in self.garbage]


def references_of(project: Project) -> References:
    """The features that a project's encoders, checkpoints, comparisons, sweeps and runs refer to, and its thumbnails.

    Raises
    ------
    EncoderError, RunError
        One of them cannot be read, so its references are unknown.
    """
    references = new_references(project.root)
    if any(
        THUMBNAILS_KEY in one.encoders for one in all_references(project.store.path) if one.place == references.place
    ):
        references.add(THUMBNAILS_KEY, THUMBNAILS)
    for name in project.config.encoder:
        try:
            identity = project.identity(name)
        except EncoderError as error:
            raise StoreError(
                f"the references of encoder {name!r} are unknown, so nothing is removed: {error}"
            ) from None
        references.add(identity.spec.key, identity.output_key, project.tokens_kind(name))
    for key in chain.from_iterable(configured_fronts(project).values()):
        references.add(key)
    folders = [f for f in project.checkpoints.glob("*-[0-9]*") if f.is_dir() and not f.name.startswith(".")]
    for folder in sorted([*folders, *(file.parent for where in ELSEWHERE for file in project.root.glob(where))]):
        checkpoint = read_checkpoint(folder)
        _refer(references, checkpoint)
    for file in project.root.glob(INTERRUPTED):
        checkpoint = read_checkpoint(file.parent)
        number = checkpoint.record["table"].get("tokens")
        _refer(references, checkpoint, tokens_kind(number) if number else None)
    for reason in damaged_runs(project.runs_folder).values():
        raise RunError(f"the references of a run are unknown, so nothing is removed: {reason}")
    for run in all_runs(project.runs_folder):
        for encoder in run.encoders.values():
            number = encoder.get("tokens")
            references.add(encoder["key"], encoder["output_key"], tokens_kind(number) if number else None)
        for key in run.baseline_keys:
            references.add(key)
    return references


def _refer(references: References, checkpoint: Checkpoint, *kinds: str | None) -> None:
    """Refer to the features of a checkpoint's encoder, and to the cached layers that it was trained from."""
    references.add(checkpoint.encoder_key, checkpoint.output().key, *kinds)
    for key in checkpoint.front["keys"]:
        references.add(key)


def find_unreferenced(project: Project, forget: tuple[str, ...] = ()) -> GarbageResult:
    """Find features that no project refers to. Only leftovers of killed processes are removed.

    Parameters
    ----------
    forget : tuple of str
        Folders of other projects whose references no longer count.

    Raises
    ------
    StoreError
        The references of a project are unknown.
    ConfigError
        A folder to forget is not that of a project that uses the store.
    """
    store, own = project.store.path, references_of(project)
    others = [one for one in all_references(store) if one.place != own.place]
    for folder in forget:
        named = [one for one in others if one.project == str(Path(folder).expanduser().absolute())]
        if not named:
            known = ", ".join(one.project for one in others) or "none"
            raise ConfigError(f"--forget {folder}: no such project uses this store. Others that do: {known}")
        for one in named:
            forget_references(store, one)
            others.remove(one)
    remove_leftovers(store)  # completes a removal that was stopped midway
    settled = settle_references(store, own) if store.is_dir() else Settled(waiting=[], stale=[])
    garbage = find_garbage(store, [own, *others])
    if not garbage:
        settled.drop()
    return GarbageResult(garbage=garbage, others=others, own=own, settled=settled)


def remove_unreferenced(project: Project, result: GarbageResult) -> int:
    """Remove the features that were found; returns the number of freed bytes.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    result.settled.drop()
    return remove_garbage(project.store.path, result.garbage, result.own)


@dataclass(frozen=True, kw_only=True, repr=False)
class FeaturesResult(TableResult):
    """The exported table; `made` is False if the destination already held the same export.

    In `table.split`, rows without labels are `unlabelled`, as in the file.
    """

    table: FeatureTable
    made: bool

    def _about(self) -> str:
        return f"{'Exported' if self.made else 'Already exported'} {counted(self.table.n_samples, 'row')}"

    def _table(self) -> list[Record]:
        arrays = arrays_of(self.table).items()
        return [{"array": name, "shape": list(values.shape), "type": str(values.dtype)} for name, values in arrays]


_SUFFIXES = {".h5": "h5", ".hdf5": "h5", ".parquet": "parquet", ".safetensors": "safetensors"}


def form_of_export(destination: Path | str, form: str | None = None) -> str:
    """The format of an export: as named, else by the destination's suffix, else npy."""
    return form or _SUFFIXES.get(Path(destination).suffix, "npy")


def export_features(
    project: Project, destination: Path | str, form: str, names: list[str] | None = None, *, split: str = "all"
) -> FeaturesResult:
    """Write aligned arrays of the project's rows as one file (npy: a folder).

    The split of a row without labels is `unlabelled`, so that `split == "train"` selects rows to train on.

    Raises
    ------
    MissingFeatures
        Features of some of these rows are not in the store.
    DataError
        The destination exists and was made from something else, or there are no such rows.
    """
    refuse_url(destination)
    rows = project.manifest.rows(split)
    names = names or list(project.config.encoder)
    table = project.feature_table(names, rows, tokens=True)
    table = table if split == "all" else table.take(rows)
    table = dataclasses.replace(table, split=split_names(table.labels, table.split))
    made_from = _made_from(project, table, names, form)
    with progress("writing", table.n_samples * len(arrays_of(table)), "rows") as bar:
        made = export_table(table, Path(destination).expanduser(), form, advance=bar.advance, made_from=made_from)
    return FeaturesResult(table=table, made=made)


def _made_from(project: Project, table: FeatureTable, names: list[str], form: str) -> str:
    """Digest of everything that an export depends on, in order: keys of encoders, probes and rows, and labels."""
    identities = {name: project.identity(name) for name in names}
    encoders = [
        [name, one.spec.key, one.output_key, project.tokens_kind(name), str(table.embeddings[name].dtype)]
        for name, one in identities.items()
    ]
    rows = [table.labels, *(a for name in names for a in (table.row_keys[name], table.present[name]))]
    arrays = [[list(a.shape), digest_bytes(np.ascontiguousarray(a).tobytes())] for a in rows]
    texts = [[str(value) for value in values] for values in (table.ids, table.split, table.classes)]
    return digest_json([form, encoders, sorted(arrays_of(table)), texts, arrays])
