"""The gated multimodal unit (Arevalo et al. 2017, Gated Multimodal Units for Information Fusion, arXiv:1702.01992).

For two modalities the paper's gates are z and 1 - z, where z is a sigmoid. A softmax over the modalities is equivalent and
works for any number of modalities. A missing modality has weight 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.config.schema import GatedConfig
from mmfeat.heads.attention import masked_softmax
from mmfeat.heads.head import Head
from mmfeat.heads.noise import Noise
from mmfeat.heads.registry import register_head


@register_head("gated")
class GatedHead(Head):
    """`h = sum_m z_m * tanh(W_m x_m)`, `z = softmax_m(G_m [x_1; x_2; ...])`, `logits = V h + b`."""

    minimum = 2

    def __init__(self, widths: dict[str, int], n_classes: int, config: GatedConfig, tokens: Any = None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.values = nn.ModuleList(nn.Linear(width, config.hidden) for width in widths.values())
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in widths)
        self.gate = nn.Linear(sum(widths.values()), len(widths) * config.hidden)
        self.output = nn.Linear(config.hidden, n_classes)

    def gates(self, x: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """The share of each modality in each unit, `(B, M, hidden)`, with sum 1; the share of a missing modality is 0."""
        joined = torch.cat([x[name] for name in self.widths], -1)
        scores = self.gate(joined).unflatten(-1, (len(self.widths), self.config.hidden))
        there = torch.stack([present[name] for name in self.widths], -1).unsqueeze(-1)  # (B, M, 1)
        return masked_softmax(scores, there, -2)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        x = {name: noise(x[name], "input_dropout") for name in self.widths}
        values = [
            torch.tanh(norm(value(x[name])))
            for name, value, norm in zip(self.widths, self.values, self.norms, strict=True)
        ]
        hidden = (self.gates(x, present) * torch.stack(values, -2)).sum(-2)  # (B, hidden)
        return self.output(noise(hidden, "dropout"))
