"""How an encoder is fine-tuned: its settings, and the recipes that give their defaults for each modality."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from mmfeat.config.fields import LOSSES, MAX_LR, OPTIMIZERS, SCHEDULES, setting

ALL, AUTO = "all", "auto"
_PIXELS = ("crop", "randaugment", "start_size")  # augmentations that need the pixels
_LAST = re.compile(r"last ([1-9]\d{0,3})")
MAX_RANDAUGMENT = 9  # at magnitude 10, timm's posterize keeps 0 bits of an image


@dataclass(frozen=True)
class FinetuneConfig:
    """How one encoder is fine-tuned; `[finetune.NAME]`. Defaults are those of the recipe for its modality."""

    epochs: int = setting(6, low=1)  # maximum
    patience: int = setting(3, low=1)  # epochs without a better metric on val before training stops
    batch_size: int = setting(64, low=1)  # samples of one step
    accumulate: int = setting(0, low=0)  # number of pieces of a batch, to save memory; 0: the fastest number
    optimizer: str = setting("adamw", choices=OPTIMIZERS)
    lr: float = setting(5e-4, low=0.0, high=MAX_LR)  # of the linear output and the last layer
    layer_decay: float = setting(0.85, low=0.01, high=1.0)  # factor of the rate from each layer to the previous one
    # stages of an image network, or blocks of a transformer, that are trained: all; "last 2": what is before them is computed
    # once, and kept in the store; auto: the last ones, if that fits the limit and the disk
    layers: str = ALL
    frozen_layers: int = setting(0, low=0)  # number of layers, from the input on, that are not trained; or use layers
    weight_decay: float = setting(0.05, low=0.0)  # not applied to biases and norms
    warm_up: float = setting(0.1, low=0.0, high=0.9)  # share of all steps over which the rate rises
    schedule: str = setting("cosine", choices=SCHEDULES)  # of the rate after that
    clip: float = setting(1.0, low=0.0)  # largest norm of the gradient; 0: no limit
    # decay of the moving average of the weights, which is saved instead of the weights; 0: no average
    ema: float = setting(0.995, low=0.0, high=0.99999)
    precision: str = setting("auto", choices=("auto", "float32", "bfloat16", "float16"))  # auto: bfloat16 on a GPU
    # statistics of batch norms: frozen (as pretrained) or trained (updated by each batch)
    batch_norm: str = setting("frozen", choices=("frozen", "trained"))
    head_first: bool = True  # start from the linear output fitted on the frozen encoder's cached features
    loss: str = setting("bce", choices=LOSSES)
    weights: str = setting("none", choices=("paper", "none"))  # of the classes in the loss: the paper's (P7), or all 1
    smoothing: float = setting(0.0, low=0.0, high=0.5)  # of labels: 0 and 1 become smoothing / 2 and 1 - smoothing / 2
    augment: bool = True  # P5 and P6: horizontal flips; two words replaced by synonyms
    crop: float = setting(0.0, low=0.0, high=1.0)  # images: random crops of this share of the area and more; 0: none
    randaugment: int = setting(0, low=0, high=MAX_RANDAUGMENT)  # images: magnitude of timm's RandAugment; 0: none
    # images: pixels in the first epoch, rising to the encoder's; 0: the encoder's
    start_size: int = setting(0, low=0, high=4096)

    @property
    def trained(self) -> int:
        """The N of `layers = "last N"`; 0 for other values."""
        found = _LAST.fullmatch(self.layers)
        return int(found[1]) if found else 0

    @property
    def pixels(self) -> str:
        """The first setting that needs the pixels of images, which cached layers do not have; empty if there is none."""
        return next((key for key in _PIXELS if getattr(self, key)), "")

    def of_training(self) -> dict[str, Any]:
        """The settings that a fine-tuning depends on, as JSON values; those of cached layers only if they are used."""
        values = dataclasses.asdict(self)
        del values["layers"]
        return values

    def wrong(self, cached: bool) -> tuple[str, str] | None:
        """The first key that contradicts another, and what is wrong; None if none does.

        Parameters
        ----------
        cached : bool
            Whether the store keeps cached layers.
        """
        if self.layers not in (ALL, AUTO) and not self.trained:
            return "layers", f'= "{self.layers[:40]}". Use "all", "auto", or "last N" with the number of trained stages'
        if self.layers != ALL and self.frozen_layers:
            return (
                "frozen_layers",
                f'= {self.frozen_layers}, but layers = "{self.layers}" is set too. Leave one of them out',
            )
        if self.trained and cached and self.pixels:
            return self.pixels, (
                f'= {getattr(self, self.pixels):g} needs pixels, and layers = "{self.layers}" trains from cached layers. '
                f'Set: {self.pixels} = 0, or layers = "auto", which then caches none'
            )
        return None


# Differences from the defaults above. `paper` is Table 4 of the paper (P19): one constant rate for all layers.
_PAPER = {
    "epochs": 10,
    "lr": 5e-4,
    "layer_decay": 1.0,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "warm_up": 0.0,
    "schedule": "constant",
    "clip": 0.0,
    "ema": 0.0,
    "batch_norm": "trained",
    "head_first": False,
    "weights": "paper",
}
FINETUNE_RECIPES = {
    "best": {"image": {}, "text": {"epochs": 3, "lr": 3e-4, "layer_decay": 0.8}},
    "paper": {"image": {**_PAPER, "batch_size": 60}, "text": {**_PAPER, "batch_size": 256}},
}


def recipe_settings(recipe: str, modality: str) -> FinetuneConfig:
    """The settings of a recipe for encoders of one modality."""
    return dataclasses.replace(FinetuneConfig(), **FINETUNE_RECIPES[recipe].get(modality, {}))
