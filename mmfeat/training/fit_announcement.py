"""The lines that a fine-tuning begins with: how long it takes, and what would be faster."""

from __future__ import annotations

from mmfeat.common.devices import torch_device
from mmfeat.common.progress import clock, say
from mmfeat.config.finetune_recipes import ALL
from mmfeat.project.project import Project

LONG_SECONDS = 1800.0  # without a GPU, a longer estimate suggests --freeze


def announce(project: Project, name: str, done: int, seconds: float, *, n_devices: int = 1) -> None:
    """Print the expected time of a fine-tuning: `done` steps are done already, the rest takes about `seconds`."""
    config, device = project.config, torch_device(project.config.device)
    settings, model = config.finetune_of(name), project.model_title(name)
    where = f"{n_devices} devices" if n_devices > 1 else device
    if done:
        say(f"{name}: continues after step {done:,}")
    say(f"{name}: fine-tuning {model} on {where}, about {clock(seconds)} for up to {settings.epochs} epochs")
    if config.encoder[name].pretrained == "random" and settings.batch_norm == "frozen":
        say(f"{name}: the weights are random. To train from scratch, use: --recipe paper")
    if seconds > LONG_SECONDS and device.type == "cpu":
        faster = (
            f'For less time, set [finetune.{name}] layers = "auto" in mmfeat.toml. ' if settings.layers == ALL else ""
        )
        say(
            f"{name}: this takes long without a GPU. {faster}"
            f"To fit only a linear probe, in minutes: mmfeat finetune {name} --freeze"
        )
