"""What every head is: a small model on cached embeddings that gives logits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.heads.noise import QUIET, Noise


class Head(nn.Module):
    """A head on the embeddings of one or more encoders.

    Standardisation (zero mean, unit variance over the training rows) is held in buffers, so that a saved head takes
    embeddings as they come from the store. An absent modality is all zeros after it.

    Parameters
    ----------
    widths : dict of str to int
        Encoder names and the D of their embeddings, in the order of the run's inputs.
    n_classes : int
        K of the logits `(B, K)`.
    config : Any
        The head's settings, one of the dataclasses in :mod:`mmfeat.config`.
    """

    def __init__(self, widths: dict[str, int], n_classes: int, config: Any) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.n_classes = n_classes
        self.config = config
        for name, width in widths.items():
            self.register_buffer(f"mean_{name}", torch.zeros(width))
            self.register_buffer(f"scale_{name}", torch.ones(width))

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Logits `(B, K)` of embeddings `(B, D)` by encoder; `present` holds `(B,)` bool by encoder."""
        return self.logits(self.standardise(inputs, present), present, QUIET)

    def standardise(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Tensor]:
        """All inputs as :meth:`logits` takes them."""
        return {name: self.standardised(name, inputs, present) for name in self.widths}

    @abstractmethod
    def logits(self, x: dict[str, Tensor], present: dict[str, Tensor], noise: Noise) -> Tensor:
        """Logits `(B, K)` of standardised embeddings; `noise` drops values in a fit, and nothing elsewhere.

        It is called under `torch.func.vmap` for many heads at once: no branch on a tensor's values, no change in place.
        """

    @torch.no_grad()
    def fit_standardisation(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> None:
        """Take mean and scale from the training rows that have the modality; a constant column keeps scale 1."""
        for name in self.widths:
            rows = inputs[name][present[name]]
            if len(rows):
                scale = rows.std(0, unbiased=False)
                getattr(self, f"mean_{name}").copy_(rows.mean(0))
                getattr(self, f"scale_{name}").copy_(torch.where(scale > 1e-6, scale, torch.ones_like(scale)))

    def standardised(self, name: str, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """One encoder's embeddings `(B, D)`, standardised; zeros where the modality is absent."""
        x = (inputs[name] - getattr(self, f"mean_{name}")) / getattr(self, f"scale_{name}")
        return torch.where(present[name].unsqueeze(-1), x, torch.zeros_like(x))

    @torch.no_grad()
    def start_from(self, odds: Tensor) -> None:
        """Begin a fit at each class's log odds `(K,)`: the output layer's bias."""
        self.output.bias.copy_(odds)

    def size_mb(self) -> float:
        """Megabytes (10^6 bytes) of the head's own tensors."""
        return sum(t.numel() * t.element_size() for t in self.state_dict().values()) / 1e6


def log_odds(labels: Tensor) -> Tensor:
    """Log odds of each class among its known labels `(N, K)`, smoothed by one row each way: `(K,)` float32."""
    positives = (labels == 1).sum(0).float()
    negatives = (labels == 0).sum(0).float()
    return ((positives + 1) / (negatives + 1)).log()
