"""The linear head: one encoder's output (P4), or on several encoders the paper's concat FC (P10, eq. 29-30)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.config import LinearConfig
from mmfeat.heads.base import Head


class LinearHead(Head):
    """`logits = W [F_1; F_2; ...] + b` on standardised embeddings."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: LinearConfig) -> None:
        super().__init__(widths, n_classes, config)
        self.output = nn.Linear(sum(widths.values()), n_classes)
        nn.init.zeros_(self.output.weight)

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Logits `(B, K)`."""
        joined = torch.cat([self.standardised(name, inputs, present) for name in self.widths], -1)  # (B, sum of D)
        return self.output(functional.dropout(joined, self.config.dropout, self.training))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight `(K, sum of D)` and bias `(K,)` of the same function of raw embeddings: standardisation folded in."""
        mean = torch.cat([getattr(self, f"mean_{name}") for name in self.widths])
        scale = torch.cat([getattr(self, f"scale_{name}") for name in self.widths])
        weight = self.output.weight / scale
        return weight, self.output.bias - weight @ mean
