"""Runs: folders with one trained head, ensemble or self-training and its metrics, written atomically.

runs/NAME/
    run.json           settings, keys, metrics, versions; digests of the other two files, and its own
    head.safetensors   the heads of all seeds and folds (absent for an ensemble)
    logits.h5          ids, row keys, logits, the role of each row in training; and the lineage
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmfeat.common.errors import RunError, one_line
from mmfeat.common.hdf5_reading import dataset, open_hdf5
from mmfeat.common.labels import class_positions
from mmfeat.common.lineage import Lineage
from mmfeat.common.seals import FILES, read_record
from mmfeat.common.text import counted
from mmfeat.common.verified import damaged_file
from mmfeat.runs.run_record import in_order, run_misfit

FORMAT = 1
RECORD = "run.json"
_REMEDY = "Remove the folder and make the run again"
HEAD_FILE = "head.safetensors"
LOGITS_FILE = "logits.h5"
_NAME = re.compile(r"[A-Za-z][\w.-]*")
_DATASETS = ("ids", "input_key", "known", "logits", "role", "trained", "chosen")
ROLES = {"none": 0, "train": 1, "val": 2, "pseudo-labelled": 3, "fitted": 4, "out-of-fold": 5}
OUT_OF_SAMPLE = (ROLES["fitted"], ROLES["out-of-fold"])  # rows whose stored logits differ from the exported model's


@dataclass(frozen=True, kw_only=True)
class RunLogits:
    """The content of logits.h5, row by row.

    Attributes
    ----------
    ids : np.ndarray
        `(N,)` object.
    input_keys : np.ndarray
        `(N, 32 M)` uint8: the row keys of the M modalities that the logits were computed from.
    known : np.ndarray
        `(N,)` bool: whether the row had one of the modalities.
    logits : np.ndarray
        `(N, K)` float32, the mean over seeds. They are out of sample: for rows that an ensemble's weights were fitted on,
        they use weights fitted on other rows; for rows in folds, they come from heads that were trained without the row.
    roles : np.ndarray
        `(N,)` uint8: the role of the row in training, numbered as in `ROLES`.
    fold : np.ndarray or None
        `(N,)` int16: the fold that held the row out, -1 if no head was trained on the row; None without folds.
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
        Its run.json; values by class are in the order of `classes`.
    columns : np.ndarray or None
        `(K,)`: the position of each of `classes` in head.safetensors and logits.h5; None if the order is the same.
    is_new : bool
        Whether the call that returned this object made the run; False if it was there already.
    """

    folder: Path
    record: dict[str, Any] = field(repr=False)
    columns: np.ndarray | None = field(default=None, repr=False, compare=False)
    is_new: bool = field(default=False, repr=False, compare=False)

    def __repr__(self) -> str:
        """Its name, what it was made from, and its recorded metric on val."""
        figures = self.record["figures"]["val"]
        metric = "" if figures is None else f", samples F1 {figures['samples_f1']:.3f} on val when it was made"
        return f"Run {self.name}: {self.record.get('head', 'ensemble')} of {', '.join(self.made_from)}{metric}"

    @property
    def name(self) -> str:
        """The folder's name, such as `crossattn-1`."""
        return self.folder.name

    @property
    def created(self) -> str:
        """The time at which it was made, in UTC: `2026-01-31T12:00:00.000000000Z`."""
        return str(self.record["created"])

    @property
    def made_from(self) -> list[str]:
        """The members of an ensemble; otherwise the encoders that its head reads."""
        return [member["name"] for member in self.members] or list(self.encoders)

    @property
    def note(self) -> str:
        """A person's text about the run; empty if there is none."""
        return self.record.get("note", "")

    @property
    def former_names(self) -> list[str]:
        """The names that the run had before, oldest first."""
        return self.record.get("former_names", [])

    @property
    def first_name(self) -> str:
        """The name that the run was made with, which digests contain."""
        return [*self.former_names, self.name][0]

    @functools.cached_property
    def members(self) -> list[dict[str, Any]]:
        """The members of an ensemble as in run.json, each under its present name. Runs are found by their fingerprints.

        Their records are read at the first access.
        """
        return [{**member, "name": self._present_name(member)} for member in self.record["members"]]

    @property
    def members_that_are_runs(self) -> list[dict[str, Any]]:
        """The members that are runs, not encoders."""
        return [member for member in self.members if member["fingerprint"] is not None]

    @property
    def started_from(self) -> str:
        """The present name of the run whose weights its heads started from; empty without one."""
        start = self.record.get("from")
        return self._present_name(start) if start else ""

    def _present_name(self, member: dict[str, Any]) -> str:
        name, fingerprint, parent = member["name"], member["fingerprint"], self.folder.parent
        if fingerprint is None or _fingerprint_of(parent / name) == fingerprint:
            return name
        return next((run.name for run in all_runs(parent) if run.record["fingerprint"] == fingerprint), name)

    @property
    def sealed(self) -> bool:
        """Whether its record contains the digests of its files; runs of version 0.1.0 have none."""
        return FILES in self.record

    @property
    def kind(self) -> str:
        """`head`, `ensemble` or `selftrain`."""
        return self.record["kind"]

    @property
    def baseline_keys(self) -> list[str]:
        """Keys of encoders that only the run's baselines use."""
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
        """The same run with its values by class in the order of `classes`; unchanged if it has other classes."""
        at = class_positions(self.classes, classes)
        if at is None or tuple(classes) == self.classes:
            return self
        record = in_order(self.record, at) | {"classes": list(classes)}  # as they are spelled in the argument
        return Run(self.folder, record, at if self.columns is None else self.columns[at])

    @property
    def size_mb(self) -> float | None:
        """Megabytes of the whole model, encoders and heads (P21); None with an encoder of unknown size."""
        return self.exported_mb(1.0)

    def exported_mb(self, heads_scale: float) -> float | None:
        """The same with heads of `heads_scale` times their size in float32."""
        sizes = [e["size_mb"] for e in self.encoders.values()]
        return None if None in sizes else sum(sizes) + self.record["head_mb"] * heads_scale

    def state(self) -> dict[str, Any]:
        """The tensors of head.safetensors, named `seed<i>.<name>`; with folds, the heads of one seed are consecutive.

        Raises
        ------
        RunError
            The file is missing or damaged.
        """
        from safetensors.torch import load_file

        self._check(HEAD_FILE)
        try:
            return load_file(self.folder / HEAD_FILE)
        except Exception as error:  # safetensors has its own exceptions for damage
            raise RunError(_unreadable(self.folder / HEAD_FILE, error)) from None

    def damage(self) -> str:
        """Describe the first damaged file; empty if all are unchanged or, for an unsealed run, can be opened."""
        if self.sealed:
            name, why = damaged_file(self.folder, self.record[FILES])
            return _unreadable(self.folder / name, why) if name else ""
        from safetensors import safe_open

        try:
            file = self.folder / LOGITS_FILE
            with open_hdf5(file) as opened:
                for name in _DATASETS:
                    dataset(opened, name)
            if self.kind != "ensemble":
                file = self.folder / HEAD_FILE
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
        names = ["ids", "input_key", "known", "logits", "role", *fold]
        fields = ("ids", "input_keys", "known", "logits", "roles", "fold")
        found = RunLogits(**dict(zip(fields, self._read(*names), strict=False)))
        if not self.sealed and (why := _misshapen(found, len(self.classes))):
            raise RunError(_unreadable(self.folder / LOGITS_FILE, why))
        return (
            found
            if self.columns is None
            else dataclasses.replace(found, logits=found.logits.take(self.columns, axis=1))
        )

    def learned(self) -> Lineage:
        """The training rows of the run and its members, and the selection rows. The logits are not read.

        Raises
        ------
        RunError
            The file is missing or damaged.
        """
        names = {"training": "trained", "selection": "chosen"}
        names |= {"out_of_fold": "folded"} if self.record.get("folded") else {}
        names |= {"taught": "taught"} if self.record.get("taught") else {}
        found = dict(zip(names, self._read(*names.values()), strict=True))
        wanted = {name: (2, 2) if name == "taught" else (1, None) for name in found}
        for name, (n_dimensions, width) in wanted.items():
            numbers = found[name]
            if numbers.ndim != n_dimensions or numbers.dtype != np.uint64 or (width and numbers.shape[1] != width):
                raise RunError(_unreadable(self.folder / LOGITS_FILE, "its lineage is not an array of id numbers"))
        return Lineage(**found)

    def _read(self, *names: str) -> list[np.ndarray]:
        """Datasets of logits.h5, texts as str."""
        self._check(LOGITS_FILE)
        try:
            with open_hdf5(self.folder / LOGITS_FILE) as file:
                found = [dataset(file, name) for name in names]
                return [one.asstr()[:] if h5py.check_string_dtype(one.dtype) else one[:] for one in found]
        except Exception as error:  # an unsealed file may contain anything
            raise RunError(_unreadable(self.folder / LOGITS_FILE, error)) from None

    def _check(self, name: str) -> None:
        """Raise RunError if a file has changed since the run was written."""
        if self.sealed and (why := damaged_file(self.folder, self.record[FILES], [name])[1]):
            raise RunError(_unreadable(self.folder / name, why))


def _unreadable(file: Path, why: Exception | str) -> str:
    reason = why if isinstance(why, str) else one_line(why)
    return f"{file}: cannot be read: {reason}. Make the run again"


def _misshapen(found: RunLogits, n_classes: int) -> str:
    """Describe the first array of logits.h5 with a wrong shape or type; empty if there is none."""
    n = len(found.ids)
    wanted = {
        "input_keys": ((n, found.input_keys.size // max(n, 1)), "u"),
        "known": ((n,), "b"),
        "logits": ((n, n_classes), "f"),
        "roles": ((n,), "u"),
        **({} if found.fold is None else {"fold": ((n,), "i")}),
    }
    for name, (shape, kind) in wanted.items():
        array = getattr(found, name)
        if array.shape != shape or array.dtype.kind != kind:
            return f"{name} {array.shape} of {array.dtype} for {counted(n, 'row')} and {counted(n_classes, 'class', 'classes')}"
    return "" if np.isfinite(found.logits).all() else "a logit is not finite"


def read_run(folder: Path) -> Run:
    """Open a run.

    Raises
    ------
    RunError
        The run does not exist, is damaged, or was written by a newer mmfeat.
    """
    file = folder / RECORD
    try:
        record = read_record(file, FORMAT, {"kind": str}, _REMEDY)
    except FileNotFoundError:
        raise RunError(f"{folder.name}: no such run (no file {file}). Run: mmfeat runs") from None
    except ValueError as error:
        raise RunError(str(error)) from None
    if why := run_misfit(record):
        raise RunError(f"{file}: damaged: {why}. {_REMEDY}")
    return Run(folder, record)


def _fingerprint_of(folder: Path) -> str | None:
    try:
        return read_run(folder).record["fingerprint"]
    except RunError:
        return None


def all_runs(parent: Path) -> list[Run]:
    """All runs of a project whose records can be read, oldest first."""
    return sorted(_read_all(parent)[0], key=lambda run: str(run.record["created"]))


def damaged_runs(parent: Path) -> dict[str, str]:
    """Runs whose records cannot be read: name to error message."""
    return _read_all(parent)[1]


def _read_all(parent: Path) -> tuple[list[Run], dict[str, str]]:
    runs, damaged = [], {}
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if _NAME.fullmatch(path.name) and any((path / name).is_file() for name in (RECORD, HEAD_FILE, LOGITS_FILE)):
            try:
                runs.append(read_run(path))
            except RunError as error:
                damaged[path.name] = str(error)
    return runs, damaged


def already_made(parent: Path, fingerprint: str) -> Run | None:
    """The newest undamaged run with this fingerprint of settings, keys, rows and labels; None if there is none."""
    return sound_run(all_runs(parent), fingerprint)


def sound_run(runs: Sequence[Run], fingerprint: str) -> Run | None:
    """The last undamaged run with this fingerprint; None if there is none."""
    same = (run for run in reversed(runs) if run.record["fingerprint"] == fingerprint)
    return next((run for run in same if not run.damage()), None)
