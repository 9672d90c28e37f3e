"""Disks that are full, that can only be read, or that refuse: one line that names a file, and nothing is lost or half-made."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fault_cases import (
    CASES,
    MAY_REFUSE,
    SAMPLE,
    Bases,
    Case,
    assert_none_wrong,
    differences,
    leftovers,
    of_cases,
    state_of,
    undisturbed,
)
from helpers.faults import Done, fill, limit_files, read_only, refuse_from, small_disk

MOST = int(os.environ.get("MMFEAT_DISKS", "10"))
MIB = 2**20
LIMITS = (4096, 9000, 20_000, 60_000, 200_000)
NUMBERS = (errno.EROFS, errno.EACCES, errno.EIO, errno.ENOSPC)
READERS = ("status", "status --config", "status --store", "runs", "encoders", "finetune --dry-run", "extract --dry-run")


def is_one_line_that_names_a_file(done: Done, folder: Path, words: str) -> bool:
    """Whether a command that failed said in one line which file could not be written."""
    errors = [line for line in done.err.splitlines() if line.startswith("Error")]
    named = [p.name for p in folder.rglob("*")] + [str(folder), words.split()[-1]]
    return len(errors) == 1 and done.said == errors[0] and any(name in errors[0] for name in named)


def refused(bases: Bases, case: Case, fault: Callable[[], None] | None) -> Iterator[str]:
    """What is wrong with a command on a disk that refuses."""
    done = bases.run(case.words, fault)
    if done.code not in (0, 1) or "Traceback" in done.err or "Exception ignored" in done.err:
        yield f"exit {done.code}: {done.out[-300:]} {done.err[-1500:]}"
    elif done.code and not is_one_line_that_names_a_file(done, bases.project, case.words):
        yield f"names no file: {done.err[-800:]}"
    if left := leftovers(bases.project):
        yield f"left over: {left}"


def recovered(bases: Bases, case: Case, wanted: dict[str, str]) -> Iterator[str]:
    """What is wrong after the disk has become a good one and the command was typed again."""
    after = bases.run("status")
    if after.code != (not (bases.project / "manifest.parquet").is_file()):
        yield f"status: exit {after.code}: {after.err}"
    again = bases.run(case.words)
    other = differences(state_of(bases.project), wanted)
    if again.code and (other or not case.words.startswith(MAY_REFUSE)):
        yield f"again: exit {again.code}: {again.err[-800:]}"
    if other:
        yield f"not as undisturbed: {other}"
    if left := leftovers(bases.project.parent):
        yield f"left over at the end: {left}"


def written_by(bases: Bases, case: Case) -> int:
    """About how many bytes a command adds to the disk."""

    def size() -> int:
        return sum(p.stat().st_blocks * 512 for p in bases.project.parent.rglob("*"))

    bases.at(case.base)
    before = size()
    bases.run(case.words).check(0)
    return max(size() - before, 8192)


@pytest.mark.exhaustive
@of_cases(CASES)
def test_every_full_disk(bases, case):
    attack_full(bases, case, MOST)


@pytest.mark.slow
@of_cases(SAMPLE)
def test_some_full_disks(bases, case):
    attack_full(bases, case, 2)


def attack_full(bases: Bases, case: Case, most: int) -> None:
    """The command, with from nothing to all of the room that it needs."""
    wanted, _ = undisturbed(bases, case)
    n_bytes = written_by(bases, case)
    wrong = []
    bases.clear()
    here = bases.project.parent
    with small_disk(here, 64 * MIB) as mounted:
        if not mounted:
            pytest.skip("no file system may be mounted here")
        for leave in np.linspace(0, n_bytes, most).astype(int).tolist():
            bases.at(case.base)
            filler = fill(here, leave)
            problems = list(refused(bases, case, None))
            if (bases.project / "features").is_dir() and not case.words.startswith(MAY_REFUSE):
                gc = bases.run("store gc --yes")
                if gc.code:
                    problems.append(f"store gc: {gc.err}")
            filler.unlink()
            problems += recovered(bases, case, wanted)
            wrong += [f"{leave} of {n_bytes} bytes: {one}" for one in problems]
        bases.clear()
    assert_none_wrong(case, f"{most} full disks", wrong)


@pytest.mark.exhaustive
@of_cases(CASES)
def test_files_that_may_not_grow(bases, case):
    """As on a full disk, whoever writes, where nothing may be mounted."""
    wanted, _ = undisturbed(bases, case)
    attack(bases, case, wanted, {f"files of {limit} bytes": limit_files(limit) for limit in LIMITS})


@pytest.mark.exhaustive
@of_cases(CASES)
def test_calls_that_are_refused(bases, case):
    wanted, n_calls = undisturbed(bases, case)
    faults = {}
    for nth in sorted(set(np.linspace(0, n_calls - 1, 8).astype(int).tolist())):
        number = NUMBERS[nth % len(NUMBERS)]
        faults[f"from call {nth} {os.strerror(number)}"] = refuse_from(nth, number)
    attack(bases, case, wanted, faults)


def attack(bases: Bases, case: Case, wanted: dict[str, str], faults: dict[str, Callable[[], None]]) -> None:
    """Run the command under each fault, and again without it."""
    wrong = []
    for name, fault in faults.items():
        bases.at(case.base)
        problems = [*refused(bases, case, fault), *recovered(bases, case, wanted)]
        wrong += [f"{name}: {one}" for one in problems]
    assert_none_wrong(case, f"{len(faults)} faults", wrong)


@pytest.mark.exhaustive
@of_cases(CASES)
def test_a_disk_that_can_only_be_read(bases, case):
    bases.at(case.base)
    before = state_of(bases.project)
    with read_only(bases.project) as mounted:
        if not mounted:
            pytest.skip("no file system may be mounted here")
        wrong = list(refused(bases, case, None))
    assert not wrong, "\n".join(wrong)
    assert differences(before, state_of(bases.project)) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("words", READERS)
def test_a_command_that_only_reads_needs_no_leave_to_write(bases, words):
    bases.at("ready")
    shutil.rmtree(bases.project / ".mmfeat")
    with read_only(bases.project.parent) as mounted:
        if not mounted:
            pytest.skip("no file system may be mounted here")
        done = bases.run(words)
    done.check(0)
