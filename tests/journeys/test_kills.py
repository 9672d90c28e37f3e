"""Every command is killed at each call that changes a folder, and typed again: the project is that of an undisturbed run."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
from helpers.faults import KILLED, kill_at

MOST = int(os.environ.get("MMFEAT_KILLS", "0"))  # of each command; 0: all


@pytest.mark.exhaustive
@of_cases(CASES)
def test_every_kill(bases, case):
    attack(bases, case, MOST)


@pytest.mark.slow
@of_cases(SAMPLE)
def test_some_kills(bases, case):
    attack(bases, case, 2)


def attack(bases: Bases, case: Case, most: int) -> None:
    """Kill the command at each of its calls, or at so many of them, evenly, the last one among them."""
    wanted, n_calls = undisturbed(bases, case)
    kills = range(n_calls) if not most else sorted(set(np.linspace(0, n_calls - 1, most).astype(int).tolist()))
    wrong = [f"killed at {nth}: {reason}" for nth in kills for reason in one_kill(bases, case, nth, wanted)]
    assert_none_wrong(case, f"{len(kills)} kills of {n_calls} calls", wrong)


def one_kill(bases: Bases, case: Case, nth: int, wanted: dict[str, str]) -> Iterator[str]:
    """What is wrong after a kill, and after the command was typed again."""
    bases.at(case.base)
    done = bases.run(case.words, kill_at(nth))
    if done.code not in (KILLED, 0):  # how often some commands call depends on what they find: it may be done before
        yield f"it was not killed, exit {done.code}: {done.said}"
        return
    after = bases.run("status")
    no_manifest = not (bases.project / "manifest.parquet").is_file()
    if after.code != no_manifest or "Traceback" in after.err:
        yield f"status: exit {after.code}: {after.err}"
    again = bases.run(case.words)
    other = differences(state_of(bases.project), wanted)
    if again.code and (other or not case.words.startswith(MAY_REFUSE) or "Traceback" in again.err):
        yield f"again: exit {again.code}: {again.err[-1500:]}"
    if left := leftovers(bases.project.parent):
        yield f"left over: {left}"
    if other:
        yield f"not as undisturbed: {other}"
