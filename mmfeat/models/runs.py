"""Runs: a folder with one trained head, ensemble or self-training and its figures, made whole or not at all.

runs/NAME/run.json           settings, keys, digests, figures, versions
head.safetensors   the heads of all seeds and folds (absent for an ensemble)
logits.h5          ids, what they were computed from, logits, the row's part in training; and what was learned from
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmfeat.errors import RunError, one_line
from mmfeat.files import publish_folder, read_record, staging_folder, write_json
from mmfeat.hdf5_writing import writing_hdf5
from mmfeat.labels import class_positions
from mmfeat.learned import Learned

FORMAT = 1
_RECORD = "run.json"
_HEAD = "head.safetensors"
_LOGITS = "logits.h5"
_DATASETS = ("ids", "input_key", "known", "logits", "role", "trained", "chosen")
ROLES = {"none": 0, "train": 1, "val": 2, "pseudo-labelled": 3, "fitted": 4, "out-of-fold": 5}
_BY_CLASS = {  # what run.json has a value of for each class, wherever it stands
    "classes", "prior", "bias", "weight", "threshold", "n_positives", "class_f1", "class_precision", "class_recall",
    "class_ap", "class_accuracy", "n_yes",
}  # fmt: skip
OUT_OF_SAMPLE = (ROLES["fitted"], ROLES["out-of-fold"])  # logits that are not those of the run as it is shipped


@dataclass(frozen=True)
class RunLogits:
    """What logits.h5 holds, row by row.

    Attributes
    ----------
    ids : np.ndarray
        `(N,)` object.
    input_keys : np.ndarray
        `(N, 32 M)` uint8: the row keys that the logits were computed from, of each of the M modalities.
    known : np.ndarray
        `(N,)` bool: whether the row had one of them.
    logits : np.ndarray
        `(N, K)` float32, the mean over the seeds. Where an ensemble's weights were fitted on the row, by weights that were
        fitted on other rows; where heads were trained in folds, by those that are blind to the row.
    roles : np.ndarray
        `(N,)` uint8: the row's part in training, numbered as in `ROLES`.
    fold : np.ndarray or None
        `(N,)` int16: the fold whose heads are blind to the row, -1 for one that no head was trained on; None without folds.
    """

    ids: np.ndarray
    input_keys: np.ndarray
    known: np.ndarray
    logits: np.ndarray
    roles: np.ndarray
    fold: np.ndarray | None = None


@dataclass(frozen=True)
class Run:
    """One folder under runs/.

    Attributes
    ----------
    record : dict
        Its run.json, by class in the order of `classes`.
    columns : np.ndarray or None
        `(K,)`: where the outputs of head.safetensors and logits.h5 have each of `classes`; None where the order is theirs.
    """

    folder: Path
    record: dict[str, Any] = field(repr=False)
    columns: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The folder's name, such as `crossattn-1`."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """`head`, `ensemble` or `selftrain`."""
        return self.record["kind"]

    @property
    def baseline_keys(self) -> list[str]:
        """Keys of encoders that only a baseline beside it reads."""
        return [one["encoder"] for one in self.record.get("baselines", {}).values() if "encoder" in one]

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """Encoder name to its recorded `key`, `output_key`, `width` and `size_mb`."""
        return self.record["encoders"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        return tuple(self.record["classes"])

    def in_order_of(self, classes: Sequence[str]) -> Run:
        """The same run with all that it says by class in the order of `classes`; as it is, where these are not its own."""
        at = class_positions(self.classes, classes)
        if at is None or tuple(classes) == self.classes:
            return self
        return Run(self.folder, in_order(self.record, at), at if self.columns is None else self.columns[at])

    @property
    def size_mb(self) -> float | None:
        """Megabytes of the whole model: its encoders and its head or heads (P21); None with an encoder of unknown size."""
        sizes = [e["size_mb"] for e in self.encoders.values()]
        return None if None in sizes else sum(sizes) + self.record["head_mb"]

    def state(self) -> dict[str, Any]:
        """The tensors of head.safetensors, `seed<i>.<name>` each; in folds those of a seed come one after another.

        Raises
        ------
        RunError
            The file is missing or damaged.
        """
        from safetensors.torch import load_file

        try:
            return load_file(self.folder / _HEAD)
        except Exception as error:  # safetensors has an exception of its own for each kind of damage
            raise RunError(_unreadable(self.folder / _HEAD, error)) from None

    def damage(self) -> str:
        """What is wrong with the run's files; empty where all are there and can be opened."""
        from safetensors import safe_open

        try:
            file = self.folder / _LOGITS
            with h5py.File(file, "r") as opened:
                for name in _DATASETS:
                    opened[name]
            if self.kind != "ensemble":
                file = self.folder / _HEAD
                with safe_open(file, "numpy"):
                    pass
        except Exception as error:
            return _unreadable(file, error)
        return ""

    def logits(self) -> RunLogits:
        """Read logits.h5.

        Raises
        ------
        RunError
            The file is missing or damaged.
        """
        fold = ["fold"] if self.record.get("folds") else []
        found = RunLogits(*self._read("ids", "input_key", "known", "logits", "role", *fold))
        return (
            found
            if self.columns is None
            else dataclasses.replace(found, logits=found.logits.take(self.columns, axis=1))
        )

    def learned(self) -> Learned:
        """The rows that it and all it is made of were trained on, and those that chose; its logits are not read.

        Raises
        ------
        RunError
            The file is missing or damaged.
        """
        folded = ["folded"] if self.record.get("folded") else []
        return Learned(*self._read("trained", "chosen", *folded))

    def _read(self, *names: str) -> list[np.ndarray]:
        """Data sets of logits.h5, texts as str."""
        try:
            with h5py.File(self.folder / _LOGITS, "r") as file:
                return [file[n].asstr()[:] if h5py.check_string_dtype(file[n].dtype) else file[n][:] for n in names]
        except (OSError, KeyError) as error:
            raise RunError(_unreadable(self.folder / _LOGITS, error)) from None


def in_order(record: Any, at: np.ndarray) -> Any:
    """A record's JSON values with all that it has by class in another order: first that of number `at[0]`, and so on."""

    def ordered(name: str, value: Any) -> Any:
        by_class = name in _BY_CLASS and isinstance(value, list) and len(value) == len(at)
        return [value[k] for k in at.tolist()] if by_class else in_order(value, at)

    if isinstance(record, dict):
        return {name: ordered(name, value) for name, value in record.items()}
    return [in_order(value, at) for value in record] if isinstance(record, list) else record


def _unreadable(file: Path, error: Exception) -> str:
    return f"{file}: cannot be read: {one_line(error)}. Make the run again"


def save_run(
    parent: Path, stem: str, record: dict[str, Any], logits: RunLogits, learned: Learned, state: dict[str, Any] | None
) -> Run:
    """Write `parent/STEM-<next number>`, whole or not at all.

    Parameters
    ----------
    learned : Learned
        Of the head and its encoders, or of all members of an ensemble.
    state : dict of torch.Tensor or None
        None for an ensemble.
    """
    record = {"format": FORMAT, **record, **({"folded": True} if len(learned.folded) else {})}
    with staging_folder(parent) as staged:
        if state is not None:
            from safetensors.torch import save_file

            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, staged / _HEAD)
        with writing_hdf5(staged / _LOGITS) as file:
            file.attrs["format"] = FORMAT
            file.attrs["classes"] = json.dumps(record["classes"])
            file.create_dataset("ids", data=[str(i) for i in logits.ids], dtype=h5py.string_dtype("utf-8"))
            file.create_dataset("input_key", data=logits.input_keys)
            file.create_dataset("known", data=logits.known)
            file.create_dataset("logits", data=logits.logits.astype(np.float32))
            file.create_dataset("role", data=logits.roles.astype(np.uint8))
            if logits.fold is not None:
                file.create_dataset("fold", data=logits.fold.astype(np.int16))
            if len(learned.folded):
                file.create_dataset("folded", data=learned.folded)
            file.create_dataset("trained", data=learned.trained)
            file.create_dataset("chosen", data=learned.chosen)
        write_json(staged / _RECORD, record)
        return Run(publish_folder(staged, parent, stem), record)


def read_run(folder: Path) -> Run:
    """Read one run's record.

    Raises
    ------
    RunError
        There is none, it is damaged, or a newer mmfeat wrote it.
    """
    file = folder / _RECORD
    keys = ("kind", "encoders", "classes", "created", "fingerprint", "head_mb", "members")
    try:
        return Run(folder, read_record(file, FORMAT, keys, "Remove the folder and make the run again"))
    except FileNotFoundError:
        raise RunError(f"{folder.name}: no such run ({file} is not there). Run: mmfeat runs") from None
    except ValueError as error:
        raise RunError(str(error)) from None


def all_runs(parent: Path) -> list[Run]:
    """Every run of a project whose record can be read, oldest first."""
    return sorted(_read_all(parent)[0], key=lambda run: str(run.record["created"]))


def damaged_runs(parent: Path) -> dict[str, str]:
    """Run name to what is wrong with its record, for those that cannot be read."""
    return _read_all(parent)[1]


def _read_all(parent: Path) -> tuple[list[Run], dict[str, str]]:
    runs, damaged = [], {}
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if re.fullmatch(r"[A-Za-z][\w.-]*-\d+", path.name) and (path / _RECORD).is_file():
            try:
                runs.append(read_run(path))
            except RunError as error:
                damaged[path.name] = str(error)
    return runs, damaged


def already_made(parent: Path, fingerprint: str) -> Run | None:
    """The newest whole run that was made from exactly this: settings, keys, rows and labels."""
    for run in reversed(all_runs(parent)):
        if run.record["fingerprint"] == fingerprint and not run.damage():
            return run
    return None
