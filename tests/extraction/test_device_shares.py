"""What `--devices` names: GPUs, sockets, or parts of the cores."""

from __future__ import annotations

import pytest

from mmfeat.common.errors import ConfigError
from mmfeat.common.machine import usable_cores
from mmfeat.extraction import device_shares as module
from mmfeat.extraction.device_shares import device_shares


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight cores of two sockets, and two GPUs."""
    monkeypatch.setattr(module, "core_numbers", lambda: list(range(8)))
    monkeypatch.setattr(module, "usable_cores", lambda: 8)
    monkeypatch.setattr(module, "_gpus", lambda: 2)
    monkeypatch.setattr(module, "_TOPOLOGY", tmp_path)
    for core in range(8):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{core % 2}\n")
    return monkeypatch


def shares(text: str) -> list[tuple]:
    return [(share.device, share.threads, share.cores) for share in device_shares(text)]


def test_gpus_divide_the_cores_and_are_not_bound(machine):
    assert shares("0,1") == shares("all") == [("cuda:0", 4, ()), ("cuda:1", 4, ())]
    assert shares("1") == [("cuda:1", 8, ())]


def test_processes_on_the_cpu_are_bound_to_parts_of_the_cores(machine):
    assert shares("cpu:3") == [("cpu", 2, (0, 1)), ("cpu", 2, (2, 3, 4)), ("cpu", 2, (5, 6, 7))]
    machine.setattr(module, "_gpus", lambda: 0)
    assert shares("all") == [("cpu", 4, (0, 2, 4, 6)), ("cpu", 4, (1, 3, 5, 7))]
    machine.setattr(module, "usable_cores", lambda: 4)  # a container's quota
    assert shares("cpu:4") == [("cpu", 1, (0, 1)), ("cpu", 1, (2, 3)), ("cpu", 1, (4, 5)), ("cpu", 1, (6, 7))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,2", "'0,2': torch sees 2 GPUs. On the CPU, use: cpu:8"),
        ("1,1", "names a GPU twice"),
        ("cpu:0", "'cpu:0'. This process may use 8 cores: N is from 1 to that"),
        ("cpu:9", "'cpu:9'. This process may use 8 cores"),
        ("", "''. Use GPUs such as 0,1; all; or cpu:N"),
        ("cuda:1", "Use GPUs such as 0,1"),
    ],
)
def test_what_is_no_device_is_one_line(machine, text, says):
    with pytest.raises(ConfigError) as error:
        device_shares(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_share_limits_the_threads_of_its_process(machine, monkeypatch):
    share = device_shares("cpu:4")[0]
    assert share.environment == {"MMFEAT_CORES": "2"}
    monkeypatch.undo()
    monkeypatch.setenv("MMFEAT_CORES", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("MMFEAT_CORES", "some")
    assert usable_cores() >= 1
