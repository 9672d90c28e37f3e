"""The tail of a cut encoder as an encoder of its own: activations in, embeddings out. Only its tensors are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmfeat.encoders.cut import ACTIVATIONS, MIRRORED, Cut, hang
from mmfeat.encoders.encoder import Encoder
from mmfeat.store.keys import EncoderSpec


class FrontRow(NamedTuple):
    """The stored activations of one image.

    Attributes
    ----------
    values : dict of str to np.ndarray
        `activations`, and `mirrored` for an encoder that averages both.
    flat : bool
        Whether the image has nearly one colour.
    """

    values: dict[str, np.ndarray]
    flat: bool


class TailEncoder(Encoder):
    """The last stages of an encoder, whose tensors have the names that they have in it.

    A batch is that of the whole encoder, or has `activations` from the front. The front is always in eval mode: its batch norms
    use their own statistics, and it drops nothing.
    """

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        base = cut.encoder
        self.kind, self.modality, self.architecture = base.kind, base.modality, base.architecture
        self.width, self.precision, self.preparation = base.width, base.precision, base.preparation
        self.cut_at = cut
        hang(self, cut.modules)
        base.eval().requires_grad_(False)
        self.requires_grad_(True)

    def _apply(self, fn: Any, recurse: bool = True) -> TailEncoder:
        """Move the whole encoder, of which the tail's modules are a part."""
        self.cut_at.encoder._apply(fn, recurse)
        return self

    def layers(self) -> dict[str, int]:
        """Depths in the whole encoder."""
        depths = self.cut_at.encoder.layers()
        return {name: depths[name] for name, _ in self.named_parameters()}

    def pieces(self, batch: dict[str, Tensor], size: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """As the whole encoder splits a batch."""
        return self.cut_at.encoder.pieces(batch, size)

    def is_flat(self, prepared: Any) -> bool:
        """As recorded with the activations."""
        return prepared.flat if isinstance(prepared, FrontRow) else self.cut_at.encoder.is_flat(prepared)

    def prepare(self, sample: Any) -> Any:
        """Stored activations need no preparation."""
        return sample if isinstance(sample, FrontRow) else self.cut_at.encoder.prepare(sample)

    def collate(self, prepared: list[Any]) -> dict[str, Tensor]:
        """Stack activations, or prepared samples."""
        if not isinstance(prepared[0], FrontRow):
            return self.cut_at.encoder.collate(prepared)
        return self.cut_at.gathered([row.values for row in prepared])

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings `(B, D)`; at inference their mean over both mirror images, if the encoder has `flip`."""
        if ACTIVATIONS not in batch:
            with torch.no_grad():
                batch = self._fronts(batch)
        embeddings = self.cut_at.tail(batch)
        if MIRRORED not in batch or self.training:
            return embeddings
        return (embeddings + self.cut_at.tail({ACTIVATIONS: batch[MIRRORED]})) / 2

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings as `forward`, with the tokens of the original image or caption and their number."""
        if ACTIVATIONS not in batch:
            batch = self._fronts(batch)
        embeddings, tokens, lengths = self.cut_at.tail_tokens(batch, number)
        if MIRRORED in batch:
            embeddings = (embeddings + self.cut_at.tail({ACTIVATIONS: batch[MIRRORED]})) / 2
        return embeddings, tokens, lengths

    def _fronts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.cut_at.front(batch)
        if not self.cut_at.both or self.training:
            return found
        return {**found, MIRRORED: self.cut_at.front({"pixels": batch["pixels"].flip(-1)})[ACTIVATIONS]}

    def spec(self) -> EncoderSpec:
        """That of the whole encoder, whose embeddings these are."""
        return self.cut_at.encoder.spec()
