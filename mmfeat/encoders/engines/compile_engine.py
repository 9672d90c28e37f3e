"""The engine `compile`: torch.compile, which writes code for the network at its first batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.encoder import Encoder, fast_arithmetics
from mmfeat.encoders.engines.engine import Choice, Engine, arithmetics, register_engine
from mmfeat.encoders.kinds import encoder_kind


@register_engine
class CompileEngine(Engine):
    """Compiled torch. It needs a C++ compiler on a CPU, and triton on a GPU; compiling takes a minute."""

    name = "compile"
    package = "torch"

    @classmethod
    def choices(cls, encoder: Encoder, device: torch.device) -> list[Choice]:
        """Every arithmetic; an encoder without a network has none."""
        if not encoder_kind(encoder.kind).settings.network:
            return []
        return [Choice(cls.name, one) for one in arithmetics(encoder.precision, fast_arithmetics(device))]

    def __init__(self, encoder: Encoder, device: torch.device, choice: Choice, **more: Any) -> None:
        super().__init__(encoder, device, choice, **more)
        self._run = torch.compile(self._forward, dynamic=True)

    def _forward(self, batch: dict[str, Tensor]) -> Any:
        return self.encoder.forward_tokens(batch, self.tokens) if self.tokens else (self.encoder(batch),)

    @torch.inference_mode()
    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """As `Encoder.encode`, by the compiled network."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with self.encoder.autocast(self.device, self.choice.arithmetic):
            return Encoded(*(part.float().cpu().numpy() for part in self._run(batch)))
