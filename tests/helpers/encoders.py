"""Tiny encoders."""

from __future__ import annotations

import torch

from mmfeat.config.schema import ImageEncoderConfig
from mmfeat.encoders.families.image_network import build_image_encoder

TINY = ImageEncoderConfig(model="test_efficientnet", pretrained="random", size=32)

CPU = torch.device("cpu")


def image_encoder(tmp_path, config=TINY, seed=0):
    return build_image_encoder("image", config, tmp_path, seed)
