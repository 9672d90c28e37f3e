"""The MLP head: embeddings joined, one hidden layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.config import MlpConfig
from mmfeat.heads.base import Head
from mmfeat.heads.noise import Noise


class Hidden(nn.Module):
    """`gelu(LayerNorm(W x + b))`: the hidden layer of several heads."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to `(..., hidden)`."""
        return functional.gelu(self.norm(self.linear(x)))


class MlpHead(Head):
    """`logits = V gelu(LayerNorm(W [x_1; x_2; ...] + c)) + b`."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: MlpConfig, tokens: Any = None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.hidden = Hidden(sum(widths.values()), config.hidden)
        self.output = nn.Linear(config.hidden, n_classes)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        joined = torch.cat([x[name] for name in self.widths], -1)  # (B, sum of D)
        hidden = self.hidden(noise(joined, "input_dropout"))
        return self.output(noise(hidden, "dropout"))
