"""The base class of encoders, which turn samples into embeddings and describe everything that an embedding depends on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.config.encoder_tables import MIXED
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.cut import Cut, uncuttable
from mmfeat.encoders.weights import digest_of, read_tensors
from mmfeat.store.keys import EncoderSpec

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def fast_arithmetics(device: torch.device) -> list[str]:
    """The arithmetic that torch computes faster than float32 on a device, for the precision class `mixed`."""
    if device.type == "cuda":
        return ["bfloat16" if torch.cuda.is_bf16_supported() else "float16", "tf32"]
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return ["bfloat16"] if native else []


class Encoder(nn.Module):
    """A network and its preprocessing.

    Attributes
    ----------
    kind : str
        The name of its encoder kind.
    modality : str
        `image` (a sample is the file's bytes), `text` (a sample is the caption), or another kind's.
    width : int
        D of the embeddings `(N, D)`.
    preparation : ImagePreparation or TextPreparation
        The processing of a sample before the network.
    """

    kind: str
    modality: str
    preparation: Any
    width: int
    architecture: str
    precision: str

    def prepare(self, sample: Any) -> Any:
        """Prepare one sample for batching; called in worker threads. Raises `UndecodableSample`."""
        return self.preparation.prepare(sample)

    def is_flat(self, prepared: Any) -> bool:
        """Whether a prepared sample is an image of nearly one colour; called in worker threads."""
        return False

    def collate(self, prepared: list[Any]) -> dict[str, Tensor]:
        """Join prepared samples into a batch, the argument of `forward`."""
        return self.preparation.collate(prepared)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings `(B, D)`, pooled."""
        raise NotImplementedError

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings `(B, D)`, tokens `(B, T, d)` for the setting `tokens = number`, and their lengths `(B,)`."""
        raise NotImplementedError

    def preprocessing(self) -> dict[str, Any]:
        """The processing of a sample before the network, as JSON values."""
        return self.preparation.describe()

    @property
    def pooling(self) -> str:
        """The pooling that turns the network's output into one vector."""
        raise NotImplementedError

    @contextlib.contextmanager
    def autocast(self, device: torch.device, arithmetic: str = "") -> Iterator[None]:
        """The context of a forward pass in some arithmetic; by default the usual one of the encoder's precision class."""
        arithmetic = arithmetic or self.precision
        if arithmetic == MIXED:
            arithmetic = next(iter(fast_arithmetics(device)), "float32")
        cast = tf32 = contextlib.nullcontext()
        if arithmetic in _AUTOCAST:
            cast = torch.autocast(device.type, _AUTOCAST[arithmetic])
        if device.type == "cuda":
            tf32 = _tf32(self.precision == MIXED and arithmetic != "float32")
        with tf32, cast:
            yield

    def pieces(self, batch: dict[str, Tensor], size: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Split a batch into pieces of `size` samples: positions `(n,)` int64 and the inputs of `forward`."""
        for at in torch.arange(len(next(iter(batch.values())))).split(size):
            yield at, {name: tensor[at] for name, tensor in batch.items()}

    def cut(self, trained: int) -> Cut:
        """Cut the encoder before its last `trained` stages.

        Raises
        ------
        EncoderError
            The network's stages are not known, or there are fewer.
        """
        raise uncuttable(self)

    def with_few_shapes(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same batch in one of few shapes, for engines that prepare themselves for each shape."""
        return batch

    def layers(self) -> dict[str, int]:
        """Each parameter's depth by its name, from 0 at the input; by default all are in one layer."""
        return {name: 0 for name, _ in self.named_parameters()}

    @torch.inference_mode()
    def encode(self, batch: dict[str, Tensor], device: torch.device, tokens: int = 0, arithmetic: str = "") -> Encoded:
        """Embeddings of one batch, and tokens if `tokens` is not 0. The encoder must be in eval mode on `device`.

        Parameters
        ----------
        arithmetic : str
            One that the precision class `mixed` allows; by default the usual one on the device.
        """
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with self.autocast(device, arithmetic):
            if not tokens:
                return Encoded(self(batch).float().cpu().numpy())
            return Encoded(*(part.float().cpu().numpy() for part in self.forward_tokens(batch, tokens)))

    def compared(self, encoded: Encoded) -> np.ndarray:
        """The rows `(n, D)` of a batch's output by which engines are compared."""
        return encoded.embeddings

    @staticmethod
    def out_of_memory(error: BaseException) -> bool:
        """Whether an error means that the device is out of memory. If so, the GPU's cached memory is freed."""
        refused = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        if not (refused or isinstance(error, torch.OutOfMemoryError | MemoryError)):
            return False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def speed_settings(self) -> list[dict[str, Any]]:
        """Settings for `set_speed` that the engine `torch` compares. They change the speed, not the embeddings."""
        return [{}]

    def set_speed(self, **settings: Any) -> None:
        """Apply one of `speed_settings`."""

    def own_files(self) -> list[Path]:
        """Files and folders of the model's own weights and configuration, which need not exist."""
        return []

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

    def weights_digest(self, tensors: dict[str, Tensor] | None = None) -> str:
        """Digest of the tensors that the embedding reads, or of some of them."""
        return digest_of(read_tensors(self) if tensors is None else tensors)

    def size_mb(self) -> float:
        """Megabytes (10^6 bytes) of the tensors as stored in float32."""
        return sum(t.numel() * t.element_size() for t in read_tensors(self).values()) / 1e6


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU computes float32 in TF32, during the block. By default torch does so in convolutions alone."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, own in zip(backends, before, strict=True):
            backend.allow_tf32 = own
