"""The same command twice at once: both end well or one says why, and the project is that of one after the other."""

from __future__ import annotations

import os
import re

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

TIMES = int(os.environ.get("MMFEAT_TWICE", "3"))


@pytest.mark.exhaustive
@of_cases(CASES)
def test_every_command_twice_at_once(bases, case):
    attack(bases, case, TIMES)


@pytest.mark.slow
@of_cases(SAMPLE[:4])
def test_some_commands_twice_at_once(bases, case):
    attack(bases, case, 1)


def attack(bases: Bases, case: Case, times: int) -> None:
    wanted, _ = undisturbed(bases, case)
    wrong = []
    for number in range(times):
        bases.at(case.base)
        running = [bases.start(case.words), bases.start(case.words)]
        ended = [one.wait() for one in running]
        for done in ended:
            if done.code not in (0, 1) or "Traceback" in done.err or (done.code and not done.said.startswith("Error")):
                wrong.append(f"{number}: exit {done.code}: {done.err[-1500:]}")
        if all(done.code for done in ended):
            wrong.append(f"{number}: neither has ended well: {[done.said for done in ended]}")
        if (after := bases.run("status")).code:
            wrong.append(f"{number}: status: {after.err}")
        again = bases.run(case.words)
        if again.code and not case.words.startswith(MAY_REFUSE):
            wrong.append(f"{number}: again: exit {again.code}: {again.err[-800:]}")
        if left := leftovers(bases.project.parent):
            wrong.append(f"{number}: left over: {left}")
        found = state_of(bases.project)
        other = [name for name in differences(found, wanted) if not is_made_twice(name, found, wanted)]
        if other:
            wrong.append(f"{number}: not as one after the other: {other}")
    assert_none_wrong(case, f"{times} times two at once", wrong)


def is_made_twice(name: str, found: dict[str, str], wanted: dict[str, str]) -> bool:
    """Whether a file of a checkpoint or a comparison is a second copy of one that one command alone would make."""
    if name.startswith("runs/"):  # of two runs with one fingerprint, one is kept
        return False
    firsts = [f"{name[: m.start(1)]}{int(m[1]) - 1}{name[m.end(1) :]}" for m in re.finditer(r"-(\d+)(?=/)", name)]
    return name not in wanted and found[name] in [wanted.get(first) for first in firsts]
