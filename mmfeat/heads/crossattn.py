"""The cross-attention head (paper, section 3.2.2, eq. 33-37; P12; several heads and layers, P22).

The query comes from the text embedding, key and value come from the image embedding. (Equation 35 as printed takes the value
from the text; the paper's text takes it from the image, and so does this head.) Attention over a single key is constant, so
the image is represented by several tokens: its stored spatial tokens, or pieces of its embedding (1792 = 14 x 128), each with
a learned position unless `positions = false`. With more than two encoders, the query attends to the tokens of all other
encoders. The residual of equation 37 is the text embedding itself (`residual = "input"`); by default it is the projected query.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.common.errors import RunError
from mmfeat.config.schema import CrossAttentionConfig
from mmfeat.heads.attention import Attention, Tokens
from mmfeat.heads.head import Head
from mmfeat.heads.mlp import Hidden
from mmfeat.heads.noise import Noise
from mmfeat.heads.registry import register_head

QUERY_MODALITY = "text"  # as in the paper


@register_head("crossattn")
class CrossAttentionHead(Head):
    """`LayerNorm(softmax(Q K^T / sqrt(d)) V + R)`, concatenated with all embeddings, then fully connected layers.

    R is the projected query Q, or the text embedding X with `residual = "input"` (through a linear layer, if its width is
    not that of the attention).
    """

    minimum = 2

    def __init__(
        self, widths: dict[str, int], n_classes: int, config: CrossAttentionConfig, tokens: Any = None
    ) -> None:
        super().__init__(widths, n_classes, config, tokens)
        self.query, d = _query(config, list(widths)), config.token_width
        if self.query not in widths:
            raise RunError(f"fuse.crossattn.query = {self.query!r} is not among the inputs {list(widths)}")
        if d % config.heads:
            raise RunError(f"fuse.crossattn.heads = {config.heads} does not divide token_width = {d}")
        self.sources = nn.ModuleList(
            Tokens(name, width, d, how=config.tokens, stored=self.token_shapes.get(name))
            for name, width in widths.items()
            if name != self.query
        )
        shapes = [(source.number, source.width) for source in self.sources]
        self.layers = nn.ModuleList(
            Attention(d if i else widths[self.query], shapes, d, heads=config.heads, positions=config.positions)
            for i in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(config.layers))
        if config.residual == "input" and widths[self.query] != d:
            self.to_residual = nn.Linear(widths[self.query], d)
        if config.hidden:
            self.hidden = Hidden([d, *widths.values()], config.hidden)
        self.output = nn.Linear(config.hidden or d + sum(widths.values()), n_classes)

    @classmethod
    def token_names(cls, config: CrossAttentionConfig, names: Sequence[str]) -> list[str]:
        """All encoders except the query's; none if the settings select pieces or projections."""
        if config.tokens not in ("auto", "stored"):
            return []
        return [name for name in names if name != _query(config, list(names))]

    @classmethod
    def resolved(cls, config: CrossAttentionConfig, modalities: dict[str, str]) -> CrossAttentionConfig:
        """The settings with the query's encoder filled in: the first text encoder, otherwise the last encoder."""
        texts = [name for name, modality in modalities.items() if modality == QUERY_MODALITY]
        usual = texts[0] if texts else list(modalities)[-1]
        return dataclasses.replace(config, query=config.query or usual)

    def describe(self) -> str:
        """The query and the tokens that it attends to."""
        return f"1 query from {self.query}, {', '.join(source.describe() for source in self.sources)}"

    def attention(self, x: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The attention's result with its residual, `(B, d)`, and the last layer's weights `(B, N, heads)`."""
        tokens, there = zip(*(source(x, present) for source in self.sources), strict=True)
        query = x[self.query].unsqueeze(-2)  # (B, 1, D)
        for attention, norm in zip(self.layers, self.norms, strict=True):
            attended, projected, weights = attention(query, list(tokens), list(there))
            query = norm(attended + (projected if self.config.residual == "query" else self._input(query)))
        return query.squeeze(-2), weights.squeeze(-1)

    def _input(self, query: Tensor) -> Tensor:
        """A layer's input as the residual, `(B, 1, d)`."""
        return query if query.shape[-1] == self.config.token_width else self.to_residual(query)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        x = {**x, **{name: noise(x[name], "input_dropout") for name in self.widths}}
        attended, _ = self.attention(x, present)
        parts = [attended, *(x[name] for name in self.widths)]
        if not self.config.hidden:
            return self.output(torch.cat(parts, -1))
        return self.output(noise(self.hidden(parts), "dropout"))


def _query(config: CrossAttentionConfig, names: list[str]) -> str:
    return config.query or names[-1]
