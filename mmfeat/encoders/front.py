"""The front of a cut encoder as an encoder of its own: its "embeddings" are the activations at the cut, of one view.

Extraction caches activations like embeddings, in a folder of the store under the front's key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.files import digest_json
from mmfeat.common.randomness import id_numbers
from mmfeat.data.synonyms import replace_two
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.cut import ACTIVATIONS, Cut
from mmfeat.encoders.encoder import Encoder
from mmfeat.store.keys import FRONT, EncoderSpec

BUCKET = 16  # tokens: texts are stored padded to a multiple of it


class View:
    """What a front sees of a sample: `original`, or a fixed variant of it that fine-tuning uses as augmentation."""

    name = "original"

    def sample(self, sample: Any) -> Any:
        """The variant of a sample, before it is prepared."""
        return sample

    def prepared(self, prepared: Any) -> Any:
        """The variant of a prepared sample."""
        return prepared

    def describe(self) -> dict[str, Any]:
        """Everything that the variant depends on besides the sample, as JSON values."""
        return {"view": self.name}


class Mirrored(View):
    """The mirror image."""

    name = "mirrored"

    def prepared(self, prepared: Tensor) -> Tensor:
        """`(3, H, W)` with its columns reversed."""
        return prepared.flip(-1)


@dataclass(frozen=True)
class Synonyms(View):
    """A caption with two words replaced by synonyms; `number` and the caption determine which."""

    synonyms: Mapping[str, tuple[str, ...]]
    number: int

    @property
    def name(self) -> str:
        """`synonyms-1` and so on."""
        return f"synonyms-{self.number}"

    def sample(self, sample: str) -> str:
        """The caption with other words."""
        return replace_two(sample, self.synonyms, int(id_numbers([f"{self.number} {sample}"])[0]))

    def describe(self) -> dict[str, Any]:
        """With a digest of the list of synonyms."""
        return {"view": self.name, "synonyms": digest_json({word: list(one) for word, one in self.synonyms.items()})}


class FrontEncoder(Encoder):
    """The stages of an encoder before a cut, on one view of a sample.

    The embedding of an image is its activations, flattened. That of a caption is the number of its tokens; its activations
    are stored as tokens.

    Parameters
    ----------
    storage : str
        Type of stored activations, `float16` or `float32`; part of the key, since training depends on it.
    """

    def __init__(self, cut: Cut, view: View, storage: str) -> None:
        super().__init__()
        base = cut.encoder
        self.kind, self.modality, self.precision = base.kind, base.modality, base.precision
        self.architecture, self.preparation = f"{FRONT}{base.architecture}", base.preparation
        self.cut_at, self.view, self.storage = cut, view, storage
        self.texts = len(cut.shape) == 1
        self.width = 1 if self.texts else math.prod(cut.shape)
        self.before = cut.before  # registered for engines, which export it

    def _apply(self, fn: Any, recurse: bool = True) -> FrontEncoder:
        """Move the whole encoder."""
        self.cut_at.encoder._apply(fn, recurse)
        return self

    def eval(self) -> FrontEncoder:
        """Put the whole encoder into eval mode."""
        self.cut_at.encoder.eval()
        return super().eval()

    def prepare(self, sample: Any) -> Any:
        """Prepare the view of a sample."""
        return self.view.prepared(self.cut_at.encoder.prepare(self.view.sample(sample)))

    def is_flat(self, prepared: Any) -> bool:
        """Whether a prepared sample is an image of nearly one colour."""
        return self.cut_at.encoder.is_flat(prepared)

    def collate(self, prepared: list[Any]) -> dict[str, Tensor]:
        """As the whole encoder."""
        return self.cut_at.encoder.collate(prepared)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Activations `(B, D)` of images."""
        return self.cut_at.front(batch)[ACTIVATIONS].flatten(1)

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of tokens `(B, 1)`, states `(B, L, d)` and again the numbers of tokens `(B,)`, of captions.

        They are as long as the batch, whatever `number` says, so that one exported graph serves all lengths.
        """
        found = self.cut_at.front(batch)
        lengths = found["attention_mask"].sum(1)
        return lengths.unsqueeze(1).float(), found[ACTIVATIONS], lengths

    def compared(self, encoded: Encoded) -> np.ndarray:
        """Activations of images, or the states of all tokens `(n, d)` of captions."""
        if not self.texts:
            return encoded.embeddings
        return np.concatenate([states[: int(n)] for states, n in zip(encoded.tokens, encoded.lengths, strict=True)])

    def spec(self) -> EncoderSpec:
        """Everything that the activations depend on; its digest is the front key."""
        cut, base = self.cut_at, self.cut_at.encoder
        return EncoderSpec(
            modality=self.modality,
            architecture=self.architecture,
            weights=cut.front_digest,
            preprocessing={**base.preprocessing(), **self.view.describe()},
            pooling=f"none: the input of the last {cut.trained} of {cut.n_stages} stages",
            numerics={"precision": self.precision, "storage": self.storage},
        )

    def row_bytes(self, length: int = 0) -> int:
        """Bytes of one sample's activations; of a caption with `length` tokens."""
        return math.prod(self.cut_at.shape) * max(1, bucket_of(length)) * np.dtype(self.storage).itemsize

    def with_few_shapes(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the whole encoder."""
        return self.cut_at.encoder.with_few_shapes(batch)


def bucket_of(length: int) -> int:
    """The number of tokens that a caption is stored with."""
    return -(-length // BUCKET) * BUCKET


def lengths_of(front: FrontEncoder, samples: list[str]) -> np.ndarray:
    """The number of tokens of each caption's view, `(n,)` int64."""
    with torch.inference_mode():
        batch = front.collate([front.prepare(sample) for sample in samples])
    return batch["attention_mask"].sum(1).numpy()
