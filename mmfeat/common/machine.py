"""The processor, its cores and the memory for prepared batches that this process may use."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from collections.abc import Collection
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
_PREPARED_MB = "MMFEAT_PREPARED_MB"
OWN_CORES = "MMFEAT_CORES"


def usable_cores() -> int:
    """Cores that this process may use, at least 1.

    `os.cpu_count` counts the host's cores. This process may be bound to some of them (affinity), limited to a share of
    their time (cgroup, as in containers), be a Slurm task, or be limited by MMFEAT_CORES. The smallest of these limits
    applies.
    """
    limits = [len(core_numbers()), *_cgroup_quotas(), *_slurm(), *_environment(OWN_CORES)]
    return max(1, min(limits))


def core_numbers() -> list[int]:
    """The numbers of the cores that this process is bound to, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def bind_to(cores: Collection[int]) -> None:
    """Bind this process to cores, before it starts threads; without effect where the system has no affinity."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def prepared_bytes() -> int:
    """Memory limit in bytes for prepared samples that wait for an encoder: MMFEAT_PREPARED_MB megabytes, by default 512."""
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get(_PREPARED_MB, ""))) * 10**6
    return 512 * 10**6


def _cgroup_quotas(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """CPU quotas in cores, rounded up, of this process's control group and its parents (cgroup versions 2 and 1)."""
    paths = [""]
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" or "cpu" in controllers.split(","):
                paths.append(path.strip("/"))
    quotas = []
    for path in paths:
        for folder in (root / path, *(root / path).parents):
            quotas += _quota(folder)
            if folder == root:
                break
    for folder in {root / "cpu", *(root / "cpu" / path for path in paths)}:
        quotas += _quota_of_version_1(folder)
    return quotas


def _quota(folder: Path) -> list[int]:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            return [max(1, math.ceil(int(quota) / int(period)))]
    return []


def _quota_of_version_1(folder: Path) -> list[int]:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
        if quota > 0:
            return [max(1, math.ceil(quota / period))]
    return []


def _slurm() -> list[int]:
    return [cores for name in _SLURM for cores in _environment(name)][:1]  # the task's cores if known, else the node's


def _environment(name: str) -> list[int]:
    """The value of an environment variable that is a positive number."""
    with contextlib.suppress(ValueError):
        if (cores := int(os.environ.get(name, ""))) > 0:
            return [cores]
    return []


@functools.cache
def processor() -> str:
    """The processor's name, such as `AMD EPYC 9B14`; the machine's type where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
