"""The device that the arithmetic runs on, and what is recorded about it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from typing import TYPE_CHECKING, Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.machine import usable_cores
from mmfeat.common.package_versions import package_version
from mmfeat.common.text import counted

if TYPE_CHECKING:
    import torch


def torch_device(name: str) -> torch.device:
    """The device that `device` in mmfeat.toml means; `auto` is a GPU where there is one.

    torch takes no more threads than this process has cores: by itself it does not know of a container's share of them.
    """
    import torch

    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", name):  # other kinds of devices are not tried
        raise ConfigError(f"device = {name[:60]!r}. Use one of: auto, cpu, cuda, cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        found = counted(torch.cuda.device_count(), "GPU")
        raise ConfigError(f"device = {name!r}: torch sees {found}. Use: auto or cpu")
    return device


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on."""
    names = ("mmfeat", "torch", "timm", "transformers", "numpy", "h5py", "scikit-learn", "Pillow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = package_version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(device: torch.device) -> dict[str, Any]:
    """Host, device and versions, as recorded (never keyed) with segments, checkpoints and runs."""
    if device.type == "cuda":
        import torch

        label = torch.cuda.get_device_name(device)
    else:
        label = platform.processor() or platform.machine()
    return {"host": platform.node(), "device": f"{device.type}: {label}", "versions": versions()}
