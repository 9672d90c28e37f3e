"""Cuts networks of timm between their stages."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.encoders.cut import ACTIVATIONS, Cut, check_stages, part_of, uncuttable

if TYPE_CHECKING:
    from mmfeat.encoders.families.timm_models import TimmEncoder


class _Chain(NamedTuple):
    """How a class of networks chains its stages."""

    stages: str  # attribute with the list of stages
    after: tuple[str, ...] = ()  # modules that `forward_features` runs after the stages


_CHAINS = {
    "EfficientNet": _Chain("blocks", ("conv_head", "bn2")),
    "MobileNetV3": _Chain("blocks"),
    "VisionTransformer": _Chain("blocks", ("norm",)),
    "ConvNeXt": _Chain("stages", ("norm_pre",)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class TimmCut(Cut):
    """A network of timm, cut between two stages. Activations are `(B, h, w, C)`, or `(B, L, C)` for tokens."""

    encoder: TimmEncoder
    chain: _Chain

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """`(h, w, C)` or `(L, C)`."""
        size = self.encoder.preparation.data_config["input_size"]
        with torch.inference_mode():
            found = self.front({"pixels": torch.zeros(1, *size, dtype=torch.uint8, device=self.encoder.mean.device)})
        return tuple(found[ACTIVATIONS].shape[1:])

    def front(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Activations of images."""
        values = self.before.forward_features(self.encoder._normalised(batch["pixels"]))
        return {ACTIVATIONS: values.permute(0, 2, 3, 1) if values.ndim == 4 else values}  # channels are last in memory

    def tail(self, inputs: dict[str, Tensor]) -> Tensor:
        """The stages after the cut, and the network's head."""
        network, values = self.encoder.network, inputs[ACTIVATIONS].float()
        values = values.permute(0, 3, 1, 2) if values.ndim == 4 else values
        for stage in list(getattr(network, self.chain.stages))[-self.trained :]:
            values = stage(values)
        for name in self.chain.after:
            values = getattr(network, name)(values)
        return network.forward_head(values)

    def gathered(self, rows: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """A batch of stored activations, flattened as they are stored."""
        return {
            name: torch.from_numpy(np.stack([row[name] for row in rows])).view(len(rows), *self.shape)
            for name in rows[0]
        }


def cut_timm(encoder: TimmEncoder, trained: int) -> TimmCut:
    """Cut before the last `trained` stages; the modules after the stages belong to the tail.

    Raises
    ------
    EncoderError
        The network's stages are not known, or there are fewer.
    """
    network = encoder.network
    chain = _CHAINS.get(type(network).__name__)
    if chain is None:
        raise uncuttable(encoder)
    stages, names = getattr(network, chain.stages), [name for name, _ in network.named_children()]
    check_stages(encoder, trained, len(stages), "stages")
    kept = len(stages) - trained
    gone = {name: nn.Identity() for name in chain.after}
    last = {f"network.{chain.stages}.{i}": stages[i] for i in range(kept, len(stages))}
    later = names[names.index(chain.stages) + 1 :]
    cut = TimmCut(
        encoder=encoder,
        n_stages=len(stages),
        trained=trained,
        modules={**last, **{f"network.{name}": getattr(network, name) for name in later}},
        before=part_of(network, {chain.stages: nn.Sequential(*list(stages)[:kept]), **gone}),
        chain=chain,
    )
    encoder.eval()
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, *encoder.preparation.data_config["input_size"]), generator=noise)
    batch = {"pixels": pixels.to(torch.uint8)}
    with torch.inference_mode():
        whole = network(encoder._normalised(batch["pixels"]))
    cut.check(batch, whole)
    return cut
