"""The cross-attention head (paper, section 3.2.2, eq. 33-37; P12).

The query comes from the text embedding, key and value from the image embedding (eq. 35 as printed takes the value from
the text; the paper's words, followed here, take it from the image). Attention over a single key is a constant, so the
image embedding is first cut into tokens: 1792 = 14 x 128. Each token is told apart by a learned position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.config import CrossAttentionConfig
from mmfeat.errors import RunError
from mmfeat.heads.base import Head
from mmfeat.heads.noise import Noise


class CrossAttentionHead(Head):
    """`LayerNorm(softmax(Q K^T / sqrt(d)) V + Q)` joined with both embeddings, then fully connected."""

    def __init__(self, widths: dict[str, int], n_classes: int, config: CrossAttentionConfig) -> None:
        super().__init__(widths, n_classes, config)
        if len(widths) != 2:
            remedy = "Name two: --inputs A,B, or use: --head concat" if len(widths) > 2 else "Use: --head linear"
            raise RunError(f"crossattn needs two encoders, found {list(widths)}. {remedy}")
        self.query = config.query or list(widths)[-1]
        if self.query not in widths:
            raise RunError(f"fuse.crossattn.query = {self.query!r} is not among the inputs {list(widths)}")
        (self.key,) = (name for name in widths if name != self.query)
        d = config.token_width
        self.n_tokens = math.ceil(widths[self.key] / d)
        self.to_query = nn.Linear(widths[self.query], d)
        self.to_key = nn.Linear(d, d)
        self.to_value = nn.Linear(d, d)
        self.position = nn.Parameter(torch.randn(self.n_tokens, d) / math.sqrt(d))
        self.norm = nn.LayerNorm(d)
        joined = d + sum(widths.values())
        if config.hidden:
            self.hidden = nn.Linear(joined, config.hidden)
            self.hidden_norm = nn.LayerNorm(config.hidden)
        self.output = nn.Linear(config.hidden or joined, n_classes)

    def tokens(self, image: Tensor) -> Tensor:
        """Cut `(B, D)` into `(B, T, d)`; the last token is filled up with zeros."""
        d = self.config.token_width
        padded = functional.pad(image, (0, self.n_tokens * d - image.shape[-1]))
        return padded.unflatten(-1, (self.n_tokens, d))

    def attention(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The attended image `(B, d)` with the query as its residual, and the weights `(B, T)` over its tokens."""
        tokens = self.tokens(image) + self.position  # (B, T, d)
        query = self.to_query(text)  # (B, d)
        scores = (self.to_key(tokens) @ query.unsqueeze(-1)).squeeze(-1)  # (B, T)
        weights = torch.softmax(scores / math.sqrt(query.shape[-1]), -1)
        attended = (weights.unsqueeze(1) @ self.to_value(tokens)).squeeze(1)  # (B, d)
        return self.norm(attended + query), weights

    def logits(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)`."""
        text, image = (noise(x[name], "input_dropout") for name in (self.query, self.key))
        attended, _ = self.attention(text, image)
        joined = torch.cat([attended, text, image], -1)  # (B, d + D_T + D_I)
        if self.config.hidden:
            joined = functional.gelu(self.hidden_norm(self.hidden(joined)))
            joined = noise(joined, "dropout")
        return self.output(joined)
