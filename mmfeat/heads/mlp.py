"""The MLP head: one hidden layer on the concatenated embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.config.schema import MlpConfig
from mmfeat.heads.head import Head
from mmfeat.heads.noise import Noise
from mmfeat.heads.registry import register_head


class Hidden(nn.Module):
    """`gelu(LayerNorm(W [x_1; x_2; ...] + b))`: the hidden layer of several heads.

    Each input has its own matrix, so that inputs are not concatenated and no gradient of them is computed.
    """

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, hidden, bias=False) for width in widths)
        for part in self.parts:  # the initialisation of a single layer on all inputs
            nn.init.uniform_(part.weight, -1 / math.sqrt(sum(widths)), 1 / math.sqrt(sum(widths)))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Parts `(..., width)` to `(..., hidden)`."""
        first, *others = (part(one) for part, one in zip(self.parts, x, strict=True))
        return functional.gelu(self.norm(sum(others, first + self.bias)))


@register_head("mlp")
class MlpHead(Head):
    """`logits = V gelu(LayerNorm(W [x_1; x_2; ...] + c)) + b`."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: MlpConfig, tokens: Any = None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.hidden = Hidden(list(widths.values()), config.hidden)
        self.output = nn.Linear(config.hidden, n_classes)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        hidden = self.hidden([noise(x[name], "input_dropout") for name in self.widths])
        return self.output(noise(hidden, "dropout"))
