"""The cores and the memory for prepared batches that this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
_PREPARED_MB = "MMFEAT_PREPARED_MB"


def usable_cores() -> int:
    """Cores that this process may use, at least 1.

    The host's cores (`os.cpu_count`) are not this process's: it may be bound to some (affinity), be given a share of
    their time (cgroup, as containers are), or be a task of Slurm. The smallest of these counts.
    """
    limits = [_affinity(), *_cgroup_quotas(), *_slurm()]
    return max(1, min(limits))


def prepared_bytes() -> int:
    """Bytes of prepared samples that may wait for an encoder: 512 MB, or the environment's MMFEAT_PREPARED_MB."""
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get(_PREPARED_MB, ""))) * 10**6
    return 512 * 10**6


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_quotas(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Cores by the quotas of this process's control group and those above it, rounded up; of version 2, then of 1."""
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
    found = []
    for name in _SLURM:
        with contextlib.suppress(ValueError):
            cores = int(os.environ.get(name, ""))
            if cores > 0:
                found.append(cores)
    return found[:1]  # of a task, where that is known; else of the node
