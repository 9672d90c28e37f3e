"""What every encoder is: something that turns samples into embeddings, and can say all that its result depends on."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.encoders.weights import digest_of, read_tensors
from mmfeat.store.keys import EncoderSpec

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoder(nn.Module):
    """A network and its preprocessing.

    Attributes
    ----------
    modality : str
        `image` (a sample is the file's bytes) or `text` (a sample is the caption).
    width : int
        D of the embeddings `(N, D)`.
    """

    modality: str
    width: int
    architecture: str
    precision: str

    @abstractmethod
    def prepare(self, sample: Any) -> Any:
        """What one sample needs before it can be batched; called in worker threads. Bad content raises."""

    @abstractmethod
    def collate(self, prepared: list[Any]) -> dict[str, Tensor]:
        """Join prepared samples into the tensors that `forward` takes."""

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings `(B, D)`, pooled."""

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """All that happens to a sample before the network, as plain JSON values."""

    @property
    @abstractmethod
    def pooling(self) -> str:
        """How the network's output becomes one vector."""

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context of the forward pass at the asked precision."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, _PRECISIONS[self.precision])

    @torch.inference_mode()
    def encode(self, batch: dict[str, Tensor], device: torch.device) -> Tensor:
        """Embeddings of one batch, `(B, D)` float32 on the CPU. The encoder must be in eval mode on `device`."""
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with self.autocast(device):
            return self(batch).float().cpu()

    def spec(self) -> EncoderSpec:
        """Everything that the embedding depends on; its digest is the encoder key."""
        return EncoderSpec(
            modality=self.modality,
            architecture=self.architecture,
            weights=self.weights_digest(),
            preprocessing=self.preprocessing(),
            pooling=self.pooling,
            numerics={"precision": self.precision},
        )

    def weights_digest(self) -> str:
        """Digest of the tensors that the embedding reads."""
        return digest_of(read_tensors(self))

    def size_mb(self) -> float:
        """Megabytes (10^6 bytes) of the tensors as stored in float32."""
        return sum(t.numel() * t.element_size() for t in read_tensors(self).values()) / 1e6
