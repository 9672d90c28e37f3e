"""The head that weights modalities for each sample (P22, dynamic weighting; after Zhang et al. 2023, Provable Dynamic
Fusion for Low-Quality Multimodal Data, arXiv:2306.02050, with learned instead of derived weights).

Each modality contributes its own logits, with a weight that depends on all modalities. During the fit, a modality is hidden
in some rows (`modality_dropout`), so that each modality also works without the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.config.schema import WeightedConfig
from mmfeat.heads.head import Head
from mmfeat.heads.mlp import Hidden
from mmfeat.heads.noise import Noise
from mmfeat.heads.registry import register_head


@register_head("weighted")
class WeightedHead(Head):
    """`h_m = gelu(LayerNorm(W_m x_m))`, `w_m = 2 sigmoid(g_m [h_1; h_2; ...])`, `logits = sum_m w_m V_m h_m + b`."""

    minimum = 2

    def __init__(self, widths: dict[str, int], n_classes: int, config: WeightedConfig, tokens: Any = None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.hidden = nn.ModuleList(Hidden([width], config.hidden) for width in widths.values())
        joined = len(widths) * config.hidden
        self.weigh = nn.Linear(joined, len(widths))
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)
        self.output = nn.Linear(joined, n_classes)

    def weights(self, hidden: Tensor, present: dict[str, Tensor]) -> Tensor:
        """Weights `(B, M)` in [0, 2] of the modalities from hidden layers `(B, M, hidden)`; 0 for a missing modality."""
        mask = torch.stack([present[name] for name in self.widths], -1)
        return torch.where(mask, 2 * torch.sigmoid(self.weigh(hidden.flatten(-2))), 0.0)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        each = [layer([noise(x[name], "input_dropout")]) for name, layer in zip(self.widths, self.hidden, strict=True)]
        there = torch.stack([present[name] for name in self.widths], -1).unsqueeze(-1)  # (B, M, 1)
        hidden = torch.where(there, torch.stack(each, -2), 0.0)  # (B, M, hidden)
        weighted = self.weights(hidden, present).unsqueeze(-1) * noise(hidden, "dropout")
        return self.output(weighted.flatten(-2))
