"""Augmentation of training images, deterministic in a number: flips (P5), crops, RandAugment; at any size."""

from __future__ import annotations

import math
import random
import threading

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmfeat.common.randomness import mix
from mmfeat.config.finetune_recipes import MAX_RANDAUGMENT, FinetuneConfig
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.preparation import ImagePreparation

_RATIO = (3 / 4, 4 / 3)  # of a random crop's sides, as in torchvision's RandomResizedCrop
_TRIES = 10  # attempts to find a crop inside the image
_GLOBAL = threading.Lock()  # for the global generators of `random` and numpy, which timm's RandAugment uses


class ImageAugmentation:
    """Prepares images for training: like the encoder or, given a number, as a random variant."""

    def __init__(self, encoder: Encoder, config: FinetuneConfig) -> None:
        self._crop = config.crop
        self._smallest = math.sqrt(config.crop * _RATIO[0])  # share of the shorter side that a crop covers at least
        self._own: ImagePreparation = encoder.preparation
        self._at_size: dict[int, ImagePreparation] = {}
        self._lock = threading.Lock()
        self._randaugment = None
        if config.randaugment:
            from timm.data.auto_augment import rand_augment_transform

            grey = tuple(round(255 * mean) for mean in self._own.data_config["mean"])
            self._randaugment = rand_augment_transform(
                f"rand-m{config.randaugment}-mstd0.5-mmax{MAX_RANDAUGMENT}-inc1",
                {"img_mean": grey, "translate_pct": 0.45},
            )

    def __call__(self, data: bytes, number: int | None, size: int = 0) -> Tensor:
        """Prepare one image's bytes: `(3, H, W)` uint8.

        Parameters
        ----------
        number : int, optional
            Determines the variant; None for the preparation of encoding.
        size : int
            Pixels of both sides; 0 for the encoder's own size.

        Raises
        ------
        UndecodableSample
            The bytes are not an image.
        """
        if number is None:
            return self._own.prepare(data)
        preparation = self._sized(size)
        if self._crop:
            pixels = self._cropped(preparation.decode(data, self._smallest), number, preparation)
        else:
            pixels = preparation.prepare(data)
        if self._randaugment:
            pixels = self._augmented(pixels, number)
        return pixels.flip(-1) if number & 1 else pixels

    def _sized(self, size: int) -> ImagePreparation:
        if not size or self._own.data_config["input_size"][1:] == (size, size):
            return self._own
        with self._lock:
            if size not in self._at_size:
                config = {**self._own.data_config, "input_size": (3, size, size)}
                self._at_size[size] = ImagePreparation(config, self._own.decoding, reduced=self._own.reduced)
            return self._at_size[size]

    def _cropped(self, image: Image.Image, number: int, preparation: ImagePreparation) -> Tensor:
        """A random part of the image, resized (Szegedy et al., 2015)."""
        from timm.data.transforms import str_to_pil_interp

        draws = (mix(np.arange(4 * _TRIES, dtype=np.uint64), number) / 2.0**64).reshape(_TRIES, 4)
        box = (0.0, 0.0, float(image.width), float(image.height))
        for area, ratio, left, top in draws.tolist():
            share = self._crop + (1 - self._crop) * area
            ratio = math.exp(math.log(_RATIO[0]) + ratio * math.log(_RATIO[1] / _RATIO[0]))
            width = math.sqrt(share * image.width * image.height * ratio)
            height = width / ratio
            if width <= image.width and height <= image.height:
                x, y = left * (image.width - width), top * (image.height - height)
                box = (x, y, x + width, y + height)
                break
        _, h, w = preparation.data_config["input_size"]
        filtered = str_to_pil_interp(preparation.data_config["interpolation"])
        return _pixels(image.resize((w, h), filtered, box=box))

    def _augmented(self, pixels: Tensor, number: int) -> Tensor:
        """Timm's RandAugment (Cubuk et al., 2019) as a function of the number."""
        image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        with _GLOBAL:
            before = random.getstate(), np.random.get_state()
            random.seed(number)
            np.random.seed(number % 2**32)
            try:
                return _pixels(self._randaugment(image))
            finally:
                random.setstate(before[0])
                np.random.set_state(before[1])


def _pixels(image: Image.Image) -> Tensor:
    """An RGB image as `(3, H, W)` uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
