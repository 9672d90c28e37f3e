"""The base class of heads: small models that compute logits from cached embeddings, and optionally from stored tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.common.errors import RunError
from mmfeat.heads.noise import QUIET, Noise

TOKENS = "/tokens"  # suffix of the input that holds an encoder's stored tokens
_BLOCK = 4096  # rows converted to float64 at a time
_CELLS = 1 << 24  # labels counted at a time


def tokens_of(name: str) -> str:
    """The name of the input with an encoder's tokens."""
    return name + TOKENS


def encoder_of(key: str) -> str:
    """The encoder of an input of embeddings or tokens."""
    return key.removesuffix(TOKENS)


class Head(nn.Module):
    """A head on the embeddings of one or more encoders.

    Mean and scale of the standardisation (zero mean and unit variance over the training rows) are buffers, so that a saved
    head reads unscaled embeddings from the store; with `standardise = false` they stay 0 and 1. A missing modality is all
    zeros after standardisation.

    Parameters
    ----------
    widths : dict of str to int
        Encoder names and the D of their embeddings, in the order of the run's inputs.
    n_classes : int
        K of the logits `(B, K)`.
    config : Any
        The head's settings, one of the dataclasses in :mod:`mmfeat.config.schema`.
    tokens : dict of str to (int, int), optional
        The shape (T, d) of the stored tokens, by encoder; the head reads those that it can use.

    Attributes
    ----------
    minimum : int
        The lowest number of encoders.
    token_shapes : dict of str to (int, int)
        The shape (T, d) of the stored tokens that it reads, by encoder.
    """

    minimum = 1

    def __init__(
        self, widths: dict[str, int], n_classes: int, config: Any, tokens: dict[str, tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.n_classes = n_classes
        self.config = config
        wanted, tokens = self.token_names(config, list(widths)), tokens or {}
        self.token_shapes = {name: (tokens[name][0], tokens[name][1]) for name in wanted if name in tokens}
        shapes = {tokens_of(name): d for name, (_, d) in self.token_shapes.items()}
        for key, width in (*widths.items(), *shapes.items()):
            self.register_buffer(f"mean_{key}", torch.zeros(width))
            self.register_buffer(f"scale_{key}", torch.ones(width))

    @classmethod
    def token_names(cls, config: Any, names: Sequence[str]) -> list[str]:
        """The encoders whose stored tokens the head can read."""
        return []

    @classmethod
    def resolved(cls, config: Any, modalities: dict[str, str]) -> Any:
        """The settings, with defaults that depend on the inputs filled in; `modalities` maps encoder to modality."""
        return config

    def describe(self) -> str:
        """A short description of the inputs and parts."""
        return " + ".join(f"{name} ({width})" for name, width in self.widths.items())

    @property
    def reads(self) -> list[str]:
        """Names of its inputs: encoders, and `NAME/tokens` for stored tokens."""
        return [*self.widths, *map(tokens_of, self.token_shapes)]

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Logits of stored (unscaled) embeddings.

        Parameters
        ----------
        inputs : dict of str to Tensor
            All inputs in `reads`: embeddings `(B, D)` by encoder, and tokens `(B, T, d)` under `NAME/tokens`.
        present : dict of str to Tensor
            The presence of embeddings `(B,)` and of tokens `(B, T)`, bool, under the same names.

        Returns
        -------
        Tensor
            `(B, K)` float32.

        Raises
        ------
        RunError
            Embeddings or tokens have another shape than in training.
        """
        return self.logits(self.standardise(inputs, present), present, QUIET)

    def standardise(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Tensor]:
        """Standardise the inputs for :meth:`logits`; raises the errors of :meth:`forward`."""
        for key in self.reads:
            trained = self.token_shapes[encoder_of(key)] if key.endswith(TOKENS) else (self.widths[key],)
            if tuple(inputs[key].shape[1:]) != trained:
                found, wanted = (" x ".join(map(str, shape)) for shape in (inputs[key].shape[1:], trained))
                raise RunError(f"{key!r} has a width of {found}, the head was trained on {wanted}. Train it again")
        return {key: self.standardised(key, inputs, present) for key in self.reads}

    def logits(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)` of standardised inputs; during a fit, `noise` drops values and hides modalities."""
        if len(self.widths) > 1:
            x, present = self._some_hidden(x, present, noise)
        return self.fused(x, present, noise)

    def fused(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)` of standardised inputs; during a fit, `noise` drops values.

        It runs under `torch.func.vmap` for many heads at once, so it must not branch on tensor values or modify tensors in
        place.
        """
        raise NotImplementedError

    def _some_hidden(
        self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Hide each modality in a share of the rows (`modality_dropout`), but never all modalities of a row."""
        is_present = torch.stack([present[name] for name in self.widths], -1)  # (B, M)
        kept = noise.kept(is_present.shape, "modality_dropout")
        if "modality_dropout" not in noise.random:
            return x, present
        visible = is_present & kept
        visible = torch.where(visible.any(-1, keepdim=True), visible, is_present)
        by_name = {name: visible[..., i] for i, name in enumerate(self.widths)}
        masks = {}
        for key in self.reads:
            mask = by_name[encoder_of(key)]
            masks[key] = mask.unsqueeze(-1) & present[key] if key.endswith(TOKENS) else mask
        return {key: torch.where(masks[key].unsqueeze(-1), x[key], 0.0) for key in self.reads}, masks

    @torch.no_grad()
    def fit_standardisation(
        self, inputs: dict[str, Tensor], present: dict[str, Tensor], rows: Tensor | None = None
    ) -> None:
        """Fit mean and scale on the rows `(n,)` (by default all rows); a constant column keeps scale 1.

        With `standardise = false`, nothing is fitted: the embeddings are read as they are.
        """
        if not self.config.standardise:
            return
        for key in self.reads:
            moments = _moments(inputs[key], present[key], rows)
            if moments is not None:
                mean, scale = moments
                getattr(self, f"mean_{key}").copy_(mean)
                getattr(self, f"scale_{key}").copy_(torch.where(scale > 1e-6, scale, torch.ones_like(scale)))

    def standardised(self, key: str, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Standardise one input, `(B, D)` or `(B, T, d)` float32; missing values become zeros."""
        x = (inputs[key] - getattr(self, f"mean_{key}")) / getattr(self, f"scale_{key}")
        return torch.where(present[key].unsqueeze(-1), x, 0.0)

    @torch.no_grad()
    def start_from(self, odds: Tensor) -> None:
        """Set the output layer's bias to each class's log odds `(K,)`, before a fit."""
        self.output.bias.copy_(odds)

    def size_mb(self) -> float:
        """Megabytes (10^6 bytes) of the head's own tensors."""
        return sum(t.numel() * t.element_size() for t in self.state_dict().values()) / 1e6


def _moments(values: Tensor, present: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation `(d,)` over the present values of some rows; None if no value is present.

    Parameters
    ----------
    values, present : Tensor
        Embeddings `(N, d)` and `(N,)` bool, or tokens `(N, T, d)` and `(N, T)` bool. They are read in blocks, in float64.
    """
    n = len(values) if rows is None else len(rows)

    def blocks() -> Iterator[Tensor]:
        for start in range(0, n, _BLOCK):
            block = slice(start, start + _BLOCK) if rows is None else rows[start : start + _BLOCK]
            yield values[block][present[block]].double()

    count, total = 0, torch.zeros(values.shape[-1], dtype=torch.float64, device=values.device)
    for block in blocks():
        count, total = count + len(block), total + block.sum(0)
    if not count:
        return None
    mean = total / count
    squares = sum((block - mean).square().sum(0) for block in blocks())
    return mean.float(), (squares / count).sqrt().float()


def log_odds(labels: Tensor) -> Tensor:
    """Log odds `(K,)` float32 of each class among known labels or soft targets `(N, K)`, after adding one of each kind."""
    positives, negatives = torch.zeros(2, labels.shape[1], device=labels.device)
    for block in labels.split(max(1, _CELLS // max(1, labels.shape[1]))):
        known = block >= 0
        here = torch.where(known, block, 0).sum(0, dtype=torch.float32)
        positives += here
        negatives += known.sum(0) - here
    return ((positives + 1) / (negatives + 1)).log()
