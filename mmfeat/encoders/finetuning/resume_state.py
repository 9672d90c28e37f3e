"""The state of an interrupted fine-tuning, in one safetensors file: tensors, and a JSON record in the metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfeat.common.errors import one_line
from mmfeat.common.files import atomic_path
from mmfeat.common.progress import say
from mmfeat.common.remembered import stamp_of
from mmfeat.common.seals import METADATA, check_sealed_file, seal_file


@dataclass
class FitState:
    """The progress of a fine-tuning between two steps.

    Attributes
    ----------
    epoch, step : int
        Number of complete epochs, and of steps in the current epoch.
    losses : list of float
        The losses of the steps of the current epoch.
    unscored : bool
        Whether the fit begins with a fitted probe, whose metrics on val are still to be computed.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] | None = None
    unscored: bool = False


def keep_state(file: Path, tensors: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
    """Write groups of named tensors and a JSON record in one sealed file, atomically."""
    from safetensors.torch import save_file

    flat = {f"{group}/{name}": tensor for group, part in tensors.items() for name, tensor in part.items()}
    with atomic_path(file) as temporary:
        save_file(
            {key: tensor.detach().cpu().contiguous().clone() for key, tensor in flat.items()},
            temporary,
            {"state": json.dumps(record), **METADATA},
        )
        seal_file(temporary)


def kept_state(
    file: Path, fingerprint: str, device: torch.device
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Load the state with the same fingerprint; None if there is none or the file is damaged, so that the fit starts over."""
    from safetensors import safe_open

    groups: dict[str, dict[str, Tensor]] = {}
    try:
        stamp = stamp_of(file.stat())
        check_sealed_file(file)
        with safe_open(file, "pt", device=str(device)) as opened:
            record = json.loads(opened.metadata()["state"])
            if record.pop("fingerprint") != fingerprint:
                return None
            for key in opened.keys():  # noqa: SIM118 - not a dict
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = opened.get_tensor(key)
        if stamp_of(file.stat()) != stamp:  # another process replaced the file
            raise ValueError("was replaced while it was read")
    except FileNotFoundError:
        return None
    except Exception as error:  # safetensors has an exception of its own for each kind of damage
        say(f"{file}: damaged: {one_line(error)}. The fit starts over")
        return None
    return groups, record


def forget_state(file: Path, fingerprint: str) -> None:
    """Remove the state if it has this fingerprint."""
    from safetensors import safe_open

    try:
        with safe_open(file, "numpy") as opened:
            kept = json.loads(opened.metadata()["state"])["fingerprint"]
    except Exception:  # safetensors has an exception of its own for each kind of damage
        return
    if kept == fingerprint:
        file.unlink(missing_ok=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's moments as named tensors."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the moments of an optimizer with the same groups."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition(".")
        moments.setdefault(int(number), {})[what] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
