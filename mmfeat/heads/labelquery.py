"""One query per class over the tokens of all inputs.

After Liu et al. 2021, Query2Label (arXiv:2107.10834), and Ridnik et al. 2021, ML-Decoder (arXiv:2111.12933). As in the
latter, queries have no self-attention, and with more classes than queries each query predicts a group of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.common.errors import RunError
from mmfeat.common.text import counted
from mmfeat.config.schema import LabelQueryConfig
from mmfeat.heads.attention import Attention, Tokens
from mmfeat.heads.head import Head
from mmfeat.heads.noise import Noise
from mmfeat.heads.registry import register_head

MAX_QUERIES = 100  # with more classes, each query predicts several


@register_head("labelquery")
class LabelQueryHead(Head):
    """`h_k = LayerNorm(q_k + MultiHead(q_k, tokens))`, `o_k = LayerNorm(h_k + FFN(h_k))`, `logit_k = v_k . o_k + b_k`."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: LabelQueryConfig, tokens: Any = None) -> None:
        super().__init__(widths, n_classes, config, tokens)
        d = config.width
        if d % config.heads:
            raise RunError(f"fuse.labelquery.heads = {config.heads} does not divide width = {d}")
        self.sources = nn.ModuleList(
            Tokens(name, width, config.token_width, how=config.tokens, stored=self.token_shapes.get(name))
            for name, width in widths.items()
        )
        self.to_width = nn.ModuleList(nn.Linear(source.width, d) for source in self.sources)
        self.positions = nn.ParameterList(
            nn.Parameter(torch.randn(source.number, d) / math.sqrt(d)) for source in self.sources
        )
        self.pooled = nn.ModuleList(nn.Linear(width, d) for width in widths.values())
        self.token_norm = nn.LayerNorm(d)
        n_queries = min(n_classes, MAX_QUERIES)
        self.queries = nn.Parameter(torch.randn(n_queries, d) / math.sqrt(d))
        n_tokens = sum(source.number + 1 for source in self.sources)
        self.layers = nn.ModuleList(_Decoder(d, n_tokens, config) for _ in range(config.layers))
        self.output = _GroupLinear(n_queries, d, n_classes)

    @classmethod
    def token_names(cls, config: LabelQueryConfig, names: Sequence[str]) -> list[str]:
        """All encoders; none if the settings select pieces or projections."""
        return list(names) if config.tokens in ("auto", "stored") else []

    def describe(self) -> str:
        """The queries and the tokens that they attend to."""
        sources = ", ".join(source.describe() for source in self.sources)
        return f"{counted(len(self.queries), 'query', 'queries')} over {sources}, and the embeddings"

    def joined(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> tuple[Tensor, Tensor]:
        """The tokens and embeddings of all inputs as tokens `(B, N, width)`, and their presence `(B, N)`."""
        tokens, masks = [], []
        for name, source, to_width, position, pooled in zip(
            self.widths, self.sources, self.to_width, self.positions, self.pooled, strict=True
        ):
            own, own_mask = source(x, present)
            tokens += [to_width(own) + position, pooled(x[name]).unsqueeze(-2)]
            masks += [own_mask, present[name].unsqueeze(-1)]
        joined = self.token_norm(torch.cat(tokens, -2))
        return noise(joined, "input_dropout"), torch.cat(masks, -1)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        x = {**x, **{name: noise(x[name], "input_dropout") for name in self.widths}}
        tokens, there = self.joined(x, present, noise)
        queries = self.queries
        for layer in self.layers:
            queries = layer(queries, tokens, there, noise)
        return self.output(noise(queries, "dropout"))


class _Decoder(nn.Module):
    """Attention over the tokens, then a feed-forward layer, each with its residual and LayerNorm."""

    def __init__(self, width: int, n_tokens: int, config: LabelQueryConfig) -> None:
        super().__init__()
        self.attention = Attention(width, [(n_tokens, width)], width, heads=config.heads, positions=False)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.last_norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor, there: Tensor, noise: Noise) -> Tensor:
        """Queries `(B, G, width)` or `(G, width)` to `(B, G, width)`."""
        attended, _, _ = self.attention(queries, [tokens], [there])
        hidden = self.norm(queries + self.mix(attended))
        return self.last_norm(hidden + self.down(noise(functional.gelu(self.up(hidden)), "dropout")))


class _GroupLinear(nn.Module):
    """A linear output for each query, with the logits of its class or group of classes."""

    def __init__(self, n_queries: int, width: int, n_classes: int) -> None:
        super().__init__()
        group = math.ceil(n_classes / n_queries)
        self.weight = nn.Parameter(torch.randn(n_queries, group, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, G, width)` to logits `(B, K)`."""
        logits = torch.einsum("bgd,gkd->bgk", x, self.weight).flatten(-2)
        return logits[..., : self.bias.shape[-1]] + self.bias
