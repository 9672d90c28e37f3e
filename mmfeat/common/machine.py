"""The processor, its cores and the memory for prepared batches that this process may use."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
_PREPARED_MB = "MMFEAT_PREPARED_MB"


def usable_cores() -> int:
    """Cores that this process may use, at least 1.

    `os.cpu_count` counts the host's cores. This process may be bound to some of them (affinity), limited to a share of
    their time (cgroup, as in containers), or be a Slurm task. The smallest of these limits applies.
    """
    limits = [_affinity(), *_cgroup_quotas(), *_slurm()]
    return max(1, min(limits))


def prepared_bytes() -> int:
    """Memory limit in bytes for prepared samples that wait for an encoder: MMFEAT_PREPARED_MB megabytes, by default 512."""
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get(_PREPARED_MB, ""))) * 10**6
    return 512 * 10**6


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    limits = []
    for name in _SLURM:
        with contextlib.suppress(ValueError):
            cores = int(os.environ.get(name, ""))
            if cores > 0:
                limits.append(cores)
    return limits[:1]  # the task's cores if known, else the node's


@functools.cache
def processor() -> str:
    """The processor's name, such as `AMD EPYC 9B14`; the machine's type where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
