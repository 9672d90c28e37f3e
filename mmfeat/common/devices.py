"""The torch device of a setting, and the device and package versions recorded with results."""

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
    """Return the torch device for a `device` setting; `auto` is the first GPU if torch sees one, else the CPU.

    Also limits torch to as many threads as this process has cores, because torch ignores a container's CPU quota.

    Raises
    ------
    ConfigError
        The name is unknown, or torch does not see that GPU.
    """
    import torch

    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", name):  # other device types are untested
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
    """Host, device and package versions. Segments, checkpoints and runs record them; no key depends on them."""
    if device.type == "cuda":
        import torch

        label = torch.cuda.get_device_name(device)
    else:
        label = platform.processor() or platform.machine()
    return {"host": platform.node(), "device": f"{device.type}: {label}", "versions": versions()}
