"""The engine `torch`: the encoder itself, in eager mode."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.encoder import Encoder, fast_arithmetics
from mmfeat.encoders.engines.engine import Choice, Engine, arithmetics, register_engine


@register_engine
class TorchEngine(Engine):
    """Eager torch, the reference of all engines."""

    name = package = "torch"

    @classmethod
    def choices(cls, encoder: Encoder, device: torch.device) -> list[Choice]:
        """Every arithmetic with every memory layout of the encoder."""
        offered = arithmetics(encoder.precision, fast_arithmetics(device))
        return [Choice(cls.name, one, settings) for one in offered for settings in encoder.speed_settings()]

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """As `Encoder.encode`, in the chosen arithmetic."""
        return self.encoder.encode(batch, self.device, self.tokens, self.choice.arithmetic)
