"""The linear head: one encoder's output (P4), or on several encoders the paper's concat FC (P10, eq. 29-30)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfeat.config import LinearConfig
from mmfeat.heads.base import Head
from mmfeat.heads.noise import Noise


class LinearHead(Head):
    """`logits = W [F_1; F_2; ...] + b` on standardised embeddings."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: LinearConfig) -> None:
        super().__init__(widths, n_classes, config)
        self.output = nn.Linear(sum(widths.values()), n_classes)
        nn.init.zeros_(self.output.weight)

    def logits(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        joined = torch.cat([x[name] for name in self.widths], -1)  # (B, sum of D)
        return self.output(noise(joined, "dropout"))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight `(K, sum of D)` and bias `(K,)` of the same function of raw embeddings: standardisation folded in."""
        mean = torch.cat([getattr(self, f"mean_{name}") for name in self.widths])
        scale = torch.cat([getattr(self, f"scale_{name}") for name in self.widths])
        weight = self.output.weight / scale
        return weight, self.output.bias - weight @ mean
