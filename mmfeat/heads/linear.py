"""The linear head on one encoder (P4) or on the concatenated embeddings of several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.config.schema import LinearConfig
from mmfeat.heads.head import Head
from mmfeat.heads.noise import Noise
from mmfeat.heads.products import InputLinear
from mmfeat.heads.registry import register_head


@register_head("linear")
class LinearHead(Head):
    """`logits = W [x_1; x_2; ...] + b` on standardised embeddings."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: LinearConfig, tokens: Any = None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.output = InputLinear(sum(widths.values()), n_classes)
        nn.init.zeros_(self.output.weight)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        joined = torch.cat([x[name] for name in self.widths], -1)  # (B, sum of D)
        return self.output(noise(joined, "dropout"))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight `(K, sum of D)` and bias `(K,)` of the same function on raw embeddings, with standardisation folded in."""
        mean = torch.cat([getattr(self, f"mean_{name}") for name in self.widths])
        scale = torch.cat([getattr(self, f"scale_{name}") for name in self.widths])
        weight = self.output.weight / scale
        return weight, self.output.bias - weight @ mean
