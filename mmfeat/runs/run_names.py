"""Names and notes of runs: a run keeps its fingerprint when it is renamed, so that what refers to it finds it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import RunError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.files import flush_folder, remove_leftovers, temporary_name
from mmfeat.common.seals import write_sealed
from mmfeat.common.text import counted, quoted, shown
from mmfeat.config.schema import RECIPES
from mmfeat.runs.run import RECORD, Run, all_runs, read_run

LONGEST_NAME, LONGEST_NOTE = 60, 500
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
LOCK = "change of the runs"


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The name and the note of a run that is to be made.

    Attributes
    ----------
    name : str
        Empty for the head's or recipe's name and a number.
    note : str
        Any text of one line.
    """

    name: str = ""
    note: str = ""

    def check(self, parent: Path, others: Collection[str]) -> None:
        """Raise RunError if a new run cannot have this name or note; `others` are names of encoders."""
        if self.name:
            check_new_name(parent, self.name, others)
        check_note(self.note)


NO_NAME = Naming()


def check_new_name(parent: Path, name: str, others: Collection[str], own: Collection[str] = ()) -> None:
    """Check the name of a new or renamed run.

    Parameters
    ----------
    parent : Path
        `runs/` of the project.
    others : collection of str
        Names of encoders, which share a namespace with runs.
    own : collection of str
        Former names of the run, which it may have again.

    Raises
    ------
    RunError
        It is no name, or it is taken.
    """
    if not _NAME.fullmatch(name):
        raise RunError(
            f"{quoted(name)} cannot be a run's name. Use up to {LONGEST_NAME} letters, digits, - and _, a letter first"
        )
    same = name.casefold()
    if same in RECIPES:
        raise RunError(f"{name} is the name of a recipe. Use another name")
    if same in {other.casefold() for other in others}:
        raise RunError(f"{name} is the name of an encoder. Use another name")
    if taken := [path.name for path in (parent.iterdir() if parent.is_dir() else ()) if path.name.casefold() == same]:
        raise RunError(f"runs/{taken[0]} exists. Use another name, or first: mmfeat runs --delete {taken[0]}")
    former = next((run.name for run in all_runs(parent) if name in run.former_names), "")
    if former and name not in own:
        raise RunError(
            f"{name} was the name of the run {former}, and what was made then refers to it. Use another name"
        )


def check_note(note: str) -> None:
    """Raise RunError if a note is too long or has several lines."""
    if len(note) > LONGEST_NOTE or not note.isprintable():
        raise RunError(f"the note {shown(note, 30)!r} cannot be kept: use one line of up to {LONGEST_NOTE} characters")


def rename_run(parent: Path, old: str, new: str, others: Collection[str]) -> Run:
    """Rename a run. Its folder moves at once, so that an interruption leaves one name or the other.

    A run that has been renamed so already stays as it is.

    Raises
    ------
    RunError
        There is no such run, it is damaged, or the new name cannot be used.
    """
    with alone_in(parent, LOCK, wait=True):
        if not (parent / old).is_dir() and any(r.name == new and old in r.former_names for r in all_runs(parent)):
            return read_run(parent / new)
        run = read_run(_folder_of(parent, old))
        check_new_name(parent, new, others, run.former_names)
        names = [*(name for name in run.former_names if name != old), old]
        _rewrite(run, {**run.record, "former_names": names})
        os.rename(run.folder, parent / new)
        flush_folder(parent)
    return read_run(parent / new)


def note_run(parent: Path, name: str, note: str) -> Run:
    """Replace the note of a run; an empty one is removed. Raises RunError if there is no such run, or it is damaged."""
    check_note(note)
    with alone_in(parent, LOCK, wait=True):
        run = read_run(_folder_of(parent, name))
        rest = {key: value for key, value in run.record.items() if key != "note"}
        _rewrite(run, {**rest, "note": note} if note else rest)
    return read_run(parent / name)


def delete_run(parent: Path, name: str) -> None:
    """Delete a run, also a damaged one. Its folder leaves `runs/` at once; an interruption leaves a temporary folder.

    Raises
    ------
    RunError
        There is no such run, or another run depends on it.
    """
    with alone_in(parent, LOCK, wait=True):
        remove_leftovers(parent, below=False)
        folder = _folder_of(parent, name)
        if users := dependants(parent, name):
            first = "Delete it first" if len(users) == 1 else "Delete them first"
            runs = counted(len(users), "run")
            raise RunError(
                f"{name} is a member of {runs}: {', '.join(users)}. {first}: mmfeat runs --delete {users[0]}"
            )
        gone = parent / temporary_name()
        os.rename(folder, gone)
        flush_folder(parent)
    shutil.rmtree(gone, ignore_errors=True)


def _folder_of(parent: Path, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name) or not (parent / name).is_dir():
        raise no_run(parent, name)
    return parent / name


def no_run(parent: Path, name: str, encoders: Sequence[str] = ()) -> RunError:
    """The error about a name that no run and none of `encoders` has: it lists all, or says how the run is called now."""
    runs = all_runs(parent)
    if now := next((run.name for run in runs if name in run.former_names), ""):
        return RunError(f"no run {quoted(name)}: it was renamed to {now!r}")
    what = "run or encoder" if encoders else "run"
    known = ", ".join([*(run.name for run in runs), *encoders]) or "none yet. Run: mmfeat fuse"
    return RunError(f"no {what} {quoted(name)}. There are: {known}")


def dependants(parent: Path, name: str) -> list[str]:
    """The runs that have a run as a member."""
    return [run.name for run in all_runs(parent) if any(m["name"] == name for m in run.members_that_are_runs)]


def _rewrite(run: Run, record: dict) -> None:
    """Write a run's record again, complete or not at all. Its other files, and their digests in it, stay."""
    write_sealed(run.folder / RECORD, record)
