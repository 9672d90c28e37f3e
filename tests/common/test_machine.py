"""What a process may use of the machine: cores by affinity, control group and Slurm; memory for prepared batches."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from mmfeat.common import freed_memory, machine
from mmfeat.encoders import batches


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "MMFEAT_PREPARED_MB"):
        monkeypatch.delenv(name, raising=False)


def test_the_cores_of_the_host_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    assert machine.usable_cores() <= len(os.sched_getaffinity(0))


def test_affinity_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", [2]), ("max 100000", []), ("odd", []), ("0 0", [])])
def test_quota_of_a_control_group(tmp_path, text, cores):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text(text)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert machine._cgroup_quotas(tmp_path, own) == cores


def test_quota_of_the_first_version(tmp_path):
    folder = tmp_path / "cpu" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("300000")
    (folder / "cpu.cfs_period_us").write_text("100000")
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/docker\n")
    assert machine._cgroup_quotas(tmp_path, own) == [3]


def test_slurm_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "_cgroup_quotas", list)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert machine.usable_cores() == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert machine.usable_cores() == 4


def in_flight(monkeypatch, workers: int, mb: int) -> int:
    """The most batches of 10 MB that were prepared and not yet taken, at any time."""
    monkeypatch.setenv("MMFEAT_PREPARED_MB", str(mb))
    lock, now, most = threading.Lock(), 0, 0

    def collate(samples):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        return {"pixels": np.zeros(10 * 10**6, np.uint8), "rows": samples}

    groups = [np.array([row]) for row in range(80)]
    found = []
    for batch in batches.prepared_batches(groups, lambda row: row, collate, workers):
        with lock:
            now -= 1
        found += batch.rows.tolist()
    assert found == list(range(80))
    return most


def test_prepared_batches_stay_within_their_memory(monkeypatch):
    assert in_flight(monkeypatch, 48, 50) <= 6
    assert in_flight(monkeypatch, 4, 5) <= 4  # a batch that is larger than the limit goes alone


def test_torch_takes_no_more_threads_than_there_are_cores(monkeypatch):
    import torch

    from mmfeat.common import devices

    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "usable_cores", lambda: 1)
    try:
        devices.torch_device("cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_freed_memory_is_returned_and_another_c_library_is_no_error(monkeypatch):
    freed_memory.return_freed_memory()
    monkeypatch.setattr("ctypes.CDLL", lambda *_: object())
    freed_memory.return_freed_memory()
