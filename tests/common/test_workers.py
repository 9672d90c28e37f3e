"""Worker processes: reports in order, one line for what fails, and none that goes on when the command has ended."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from mmfeat.common.errors import DataError
from mmfeat.common.workers import Worker, WorkerFailed, running

MODULE = """
import fcntl, os, signal, time
from mmfeat.common.errors import DataError
from mmfeat.common.workers import LostProcess, Reports

reports = Reports()
with reports.ending():
    asked = reports.request
    print("not a report")
    if asked["do"] == "wait":
        try:
            reports.advance(2)
            if "gate" in asked:
                open(asked["gate"], "w").close()
            time.sleep(60)
        finally:
            open(asked["file"], "w").write(os.environ["OWN"])
    if asked["do"] == "ignore":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        reports.advance(2)
        time.sleep(60)
    if asked["do"] == "talk":
        locked = open(asked["file"], "w")
        fcntl.flock(locked, fcntl.LOCK_EX)
        while True:
            reports.advance(2)
    reports.advance(2)
    if "gate" in asked:
        open(asked["gate"]).read()  # until the other has begun to wait
    if asked["do"] == "lose":
        raise LostProcess("the connection broke")
    if asked["do"] == "refuse":
        raise DataError("row 'a': it has\\nno image")
    if asked["do"] == "fail":
        raise KeyError("a bug")
    if asked["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    reports.send(done=asked["do"])
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "worker_of_a_test.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "worker_of_a_test"


def worker(do: str, **more: str) -> Worker:
    return Worker(name=f"process ({do})", request={"do": do, **more}, environment={"OWN": "kept"})


def test_all_reports_arrive_and_other_output_is_none_of_them(module):
    with running(module, [worker("work"), worker("rest")]) as reports:
        found = list(reports)
    assert sum(report.get("advance", 0) for report in found) == 4
    assert sorted(report["done"] for report in found if "done" in report) == ["rest", "work"]


@pytest.mark.parametrize(
    ("do", "error", "says"),
    [
        ("refuse", DataError, r"^row 'a': it has no image$"),
        ("fail", WorkerFailed, r"^process \(fail\): KeyError: 'a bug'$"),
        ("die", WorkerFailed, r"^process \(die\): the process was ended by SIGKILL \(out of memory\?\)$"),
    ],
)
def test_what_fails_is_one_line_and_the_others_are_interrupted(module, tmp_path, do, error, says):
    kept, gate = tmp_path / "kept", tmp_path / "gate"
    os.mkfifo(gate)
    both = [worker("wait", file=str(kept), gate=str(gate)), worker(do, gate=str(gate))]
    with pytest.raises(error, match=says), running(module, both) as reports:
        assert next(reports) == next(reports) == {"advance": 2, "note": ""}
        list(reports)
    assert kept.read_text() == "kept"


def test_an_interruption_reaches_every_worker(module, tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(KeyboardInterrupt), running(module, [worker("wait", file=str(f)) for f in files]) as reports:
        assert next(reports) == next(reports) == {"advance": 2, "note": ""}
        raise KeyboardInterrupt
    assert all(file.read_text() == "kept" for file in files)


def test_a_worker_that_lost_another_is_not_the_one_to_blame(module, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    three = [worker("lose"), worker("wait", file=str(tmp_path / "kept"), gate=str(gate)), worker("die", gate=str(gate))]
    for workers, says in (
        (three, r"^process \(die\): the process was ended by SIGKILL"),
        ([worker("lose"), worker("work")], r"^process \(lose\): the connection to the other processes broke$"),
    ):
        with pytest.raises(WorkerFailed, match=says), running(module, workers) as reports:
            list(reports)


def test_a_worker_that_does_not_end_is_killed_after_the_grace(module):
    with pytest.raises(KeyboardInterrupt), running(module, [worker("ignore")], grace=0.1) as reports:
        next(reports)
        raise KeyboardInterrupt


COMMAND = """
import os, signal, sys
from mmfeat.common.workers import Worker, running

worker = Worker(name="process", request={"do": "talk", "file": sys.argv[1]}, environment={})
with running("worker_of_a_test", [worker]) as reports:
    next(reports)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_does_not_outlive_its_command(module, tmp_path):
    file = tmp_path / "locked"
    command = subprocess.run([sys.executable, "-c", COMMAND, file], check=False)
    assert command.returncode == -signal.SIGKILL
    with file.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)  # waits for the end of the worker
