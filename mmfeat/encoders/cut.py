"""Encoders cut in two: a front that stays as pretrained, and a tail, its last stages, that fine-tuning trains.

The activations between both depend only on the sample and on the front, so that they can be computed once. Both parts use the
encoder's own modules: nothing is copied.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.common.errors import EncoderError
from mmfeat.encoders.weights import read_tensors

if TYPE_CHECKING:
    from mmfeat.encoders.encoder import Encoder

ACTIVATIONS, MIRRORED = "activations", "mirrored"  # names of a tail's inputs
# Largest difference between the whole encoder and its two parts: relative to the difference between two samples, since all
# samples have nearly one embedding in some networks with random weights, and to the largest value.
_AGREES, _ROUNDING = 1e-3, 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """An encoder in two parts.

    Attributes
    ----------
    n_stages : int
        Stages of an image network, or blocks of a transformer.
    trained : int
        How many of them, the last ones, belong to the tail.
    modules : dict of str to nn.Module
        The tail's modules, by their path in the encoder.
    before : nn.Module
        The network without them; it shares all other modules with the encoder's.
    """

    encoder: Encoder
    n_stages: int
    trained: int
    modules: dict[str, nn.Module]
    before: nn.Module

    @property
    def both(self) -> bool:
        """Whether an embedding is the mean over an image and its mirror image."""
        return bool(getattr(self.encoder, "flip", False))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample's activations; without the length for texts."""
        raise NotImplementedError

    def front(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tail's inputs for a batch of the encoder: `activations (B, *shape)`; for texts `(B, L, D)` with their mask."""
        raise NotImplementedError

    def tail(self, inputs: dict[str, Tensor]) -> Tensor:
        """Embeddings `(B, D)` of activations."""
        raise NotImplementedError

    def tail_tokens(self, inputs: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings `(B, D)` of activations, tokens and their lengths, as `Encoder.forward_tokens` of the whole encoder.

        An average over mirror images is left to the caller.
        """
        raise NotImplementedError

    def front_tensors(self) -> dict[str, Tensor]:
        """The tensors that the activations depend on."""
        prefixes = tuple(f"{path}." for path in self.modules)
        return {name: t for name, t in read_tensors(self.encoder).items() if not name.startswith(prefixes)}

    def gathered(self, rows: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """A batch of stored activations."""
        raise NotImplementedError

    @functools.cached_property
    def front_digest(self) -> str:
        """Digest of these tensors, which stay as they are."""
        return self.encoder.weights_digest(self.front_tensors())

    @torch.inference_mode()
    def arrays(self, batch: dict[str, Tensor], device: torch.device, dtype: str) -> dict[str, np.ndarray]:
        """The activations of a batch of one sample, as they would be stored, with those of its mirror image."""
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with self.encoder.autocast(device):
            values = self.front(batch)[ACTIVATIONS][0].float().cpu().numpy().astype(dtype)
        return {ACTIVATIONS: values, **({MIRRORED: values} if self.both else {})}

    def check(self, batch: dict[str, Tensor], whole: Tensor) -> None:
        """Compare both parts on a batch with the embeddings of the whole network.

        Raises
        ------
        EncoderError
            They differ: the network is not a chain of these stages.
        """
        with torch.inference_mode():
            parts = self.tail(self.front(batch))
        allowed = _AGREES * (whole[0] - whole[1]).abs().max() + _ROUNDING * whole.abs().max()
        if not bool((whole - parts).abs().max() <= allowed):
            raise uncuttable(self.encoder)


def uncuttable(encoder: Encoder) -> EncoderError:
    """The error of a network that cannot be cut."""
    return EncoderError(
        f'{encoder.architecture}: its layers cannot be cached, because mmfeat does not know its stages. Set: layers = "all"'
    )


def check_stages(encoder: Encoder, trained: int, n_stages: int, what: str) -> None:
    """Refuse to train more stages than a network has.

    Raises
    ------
    EncoderError
        There are fewer stages.
    """
    if trained > n_stages:
        raise EncoderError(
            f'{encoder.architecture}: layers = "last {trained}", but it has {n_stages} {what}. '
            f'Use a number from 1 to {n_stages}, or: layers = "all"'
        )


def part_of(module: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
    """A module that shares everything with another one except some of its submodules, named by their dotted paths."""
    part = copy.copy(module)
    part._modules = dict(module._modules)
    below: dict[str, dict[str, nn.Module]] = {}
    for path, other in replaced.items():
        name, _, rest = path.partition(".")
        if rest:
            below.setdefault(name, {})[rest] = other
        else:
            part._modules[name] = other
    for name, others in below.items():
        part._modules[name] = part_of(part._modules[name], others)
    return part


def hang(root: nn.Module, modules: dict[str, nn.Module]) -> None:
    """Register modules under their dotted paths, so that their tensors have the same names as in the encoder."""
    for path, module in modules.items():
        *holders, last = path.split(".")
        at = root
        for name in holders:
            if name not in at._modules:
                at.add_module(name, nn.Module())
            at = at._modules[name]
        at.add_module(last, module)
