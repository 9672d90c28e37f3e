"""A head for mmfeat: embeddings projected to one width, multiplied, then a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmfeat.config.fields import setting
from mmfeat.config.schema import HeadConfig
from mmfeat.heads import register_head
from mmfeat.heads.head import Head
from mmfeat.heads.noise import Noise


@dataclass(frozen=True)
class ProductsConfig(HeadConfig):
    """`[fuse.products]`."""

    width: int = setting(64, low=1)


@register_head("products", ProductsConfig)
class ProductsHead(Head):
    """`logits = V prod_m (1 + tanh(W_m x_m)) + b`; a missing modality is a factor of 1."""

    def __init__(self, widths, n_classes, config, tokens=None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.projections = nn.ModuleList(nn.Linear(width, config.width, bias=False) for width in widths.values())
        self.output = nn.Linear(config.width, n_classes)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        factors = [1 + layer(x[name]).tanh() for name, layer in zip(self.widths, self.projections, strict=True)]
        product = torch.stack(factors, -2).prod(-2)  # (B, width)
        return self.output(noise(product, "dropout"))
