"""Parts of attention heads: embeddings as tokens, and attention that never computes keys and values.

A score is q . (W_K t) = (W_K^T q) . t, and a sum of values is sum a_i (W_V t_i) = W_V (sum a_i t_i). The query is therefore
projected to the tokens' space, instead of each token to the query's space. A bias of the keys would add the same number to
all scores of a query, which the softmax ignores. This is exact, also with several attention heads and with positions that
are added to the tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.common.errors import RunError
from mmfeat.heads.head import tokens_of

PROJECTED = 8  # number of tokens that an embedding is projected to
_NEVER = -1e9  # the score of a missing token: finite, so that a row without any token has gradients


def masked_softmax(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the entries where `mask` (bool, broadcast to the shape) is true; all other entries are 0."""
    return torch.where(mask, torch.softmax(torch.where(mask, scores, _NEVER), dim), 0.0)


class Tokens(nn.Module):
    """The tokens `(B, n, d)` of one encoder: stored tokens, or tokens computed from its embedding.

    Parameters
    ----------
    width : int
        D of the embedding.
    how : str
        `chunked` cuts the embedding into pieces of `token_width` and pads the last piece with zeros; `projected` computes a
        few tokens by linear projections; `auto` and `stored` mean `chunked` if no tokens are stored.
    stored : tuple of (int, int), optional
        The shape (T, d) of the stored tokens.
    """

    def __init__(self, name: str, width: int, token_width: int, *, how: str, stored: tuple[int, int] | None) -> None:
        super().__init__()
        self.name, self.is_stored = name, stored is not None
        n = PROJECTED if how == "projected" else math.ceil(width / token_width)
        self.number, self.width = stored or (n, token_width)
        if how == "projected" and stored is None:
            self.project = nn.Linear(width, self.number * self.width)

    def forward(self, x: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens `(B, n, d)` and their presence `(B, n)` bool."""
        if self.is_stored:
            return x[tokens_of(self.name)], present[tokens_of(self.name)]
        mask = present[self.name].unsqueeze(-1).expand(*present[self.name].shape, self.number)
        if hasattr(self, "project"):
            return self.project(x[self.name]).unflatten(-1, (self.number, self.width)), mask
        return chunked(x[self.name], self.number, self.width), mask

    def describe(self) -> str:
        """The number and width of the tokens, and their encoder, in a few words."""
        return f"{self.number} tokens of {self.width} from {self.name}{' (stored)' if self.is_stored else ''}"


def chunked(embedding: Tensor, number: int, width: int) -> Tensor:
    """Cut `(B, D)` into `(B, number, width)`; the last piece is padded with zeros."""
    return functional.pad(embedding, (0, number * width - embedding.shape[-1])).unflatten(-1, (number, width))


class Attention(nn.Module):
    """Attention of queries over the tokens of several sources; each source has its own key and value projections.

    Parameters
    ----------
    query_width : int
        Width of a query.
    sources : list of (int, int)
        Number and width of each source's tokens.
    width : int
        Width of the result, divided equally among the attention heads.
    positions : bool
        Whether a learned vector is added to each token.
    """

    def __init__(
        self, query_width: int, sources: list[tuple[int, int]], width: int, *, heads: int, positions: bool = True
    ) -> None:
        super().__init__()
        if width % heads:
            raise RunError(f"{heads} attention heads do not divide the width {width}. Use a number that does")
        self.heads, self.each = heads, width // heads
        self.to_query = nn.Linear(query_width, width)
        self.to_key = nn.ModuleList(nn.Linear(d, width, bias=False) for _, d in sources)
        self.to_value = nn.ModuleList(nn.Linear(d, width, bias=False) for _, d in sources)
        self.bias = nn.Parameter(torch.zeros(width))
        self.positions = nn.ParameterList(
            [nn.Parameter(torch.randn(n, d) / math.sqrt(d)) for n, d in sources] if positions else []
        )

    def forward(self, query: Tensor, tokens: list[Tensor], there: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the attention of the queries over all tokens.

        Parameters
        ----------
        query : Tensor
            `(B, G, query_width)`, or `(G, query_width)` for the same queries in every row.
        tokens, there : list of Tensor
            For each source, tokens `(B, n, d)` and their presence `(B, n)` bool.

        Returns
        -------
        tuple of Tensor
            The result `(B, G, width)`, the projected queries `(B or none, G, width)`, and the weights
            `(B, n of all sources, heads, G)`, zero for missing tokens.
        """
        projected = self.to_query(query)  # (..., G, h e)
        split = projected.unflatten(-1, (self.heads, self.each))  # (..., G, h, e)
        n_queries = query.shape[-2]
        scores = []
        for i, (source, to_key) in enumerate(zip(tokens, self.to_key, strict=True)):
            key = to_key.weight.unflatten(0, (self.heads, self.each))  # (h, e, d)
            folded = torch.einsum("...ghe,hed->...dhg", split, key).flatten(-2)  # (..., d, h G)
            score = source @ folded  # (B, n, h G)
            if len(self.positions):  # transposed, so that it is one product for all rows
                score = score + (folded.mT @ self.positions[i].mT).mT
            scores.append(score)
        mask = torch.cat(there, -1).unsqueeze(-1)  # (B, N, 1)
        weights = masked_softmax(torch.cat(scores, -2) / math.sqrt(self.each), mask, -2)  # (B, N, h G)
        attended = []
        for i, (share, to_value) in enumerate(
            zip(weights.split([source.shape[-2] for source in tokens], -2), self.to_value, strict=True)
        ):
            taken = share.transpose(-1, -2) @ tokens[i]  # (B, h G, d)
            if len(self.positions):
                taken = taken + share.transpose(-1, -2) @ self.positions[i]
            value = to_value.weight.unflatten(0, (self.heads, self.each))  # (h, e, d)
            attended.append(torch.einsum("bhgd,hed->bghe", taken.unflatten(-2, (self.heads, n_queries)), value))
        result = sum(attended[1:], attended[0]).flatten(-2) + self.bias  # (B, G, h e)
        return result, projected, weights.unflatten(-1, (self.heads, n_queries))
