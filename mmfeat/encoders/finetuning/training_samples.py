"""The samples of a fine-tuning, and their batches: with augmentation for training, without for scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mmfeat.common.randomness import mix
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.encoders.batches import Batch, prepared_batches
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.finetuning.processes import ALONE, Processes

_SIZE_STEP = 32  # pixels; networks halve the size five times


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of a fine-tuning.

    Attributes
    ----------
    load : callable
        (row, augmentation number or None, pixels or 0) to a prepared sample; a number selects a random variant.
    labels : np.ndarray
        `(N, K)` int8.
    numbers : np.ndarray
        `(N,)` uint64 hashes of the ids.
    train, val : np.ndarray
        Row numbers.
    size : int
        Pixels of the encoder's images; 0 for other samples.
    """

    load: Callable[[int, int | None, int], Any]
    labels: np.ndarray
    numbers: np.ndarray
    train: np.ndarray
    val: np.ndarray
    classes: tuple[str, ...]
    size: int = 0


class TrainingBatches:
    """Batches of samples; augmentation is a function of (seed, epoch, id). Of training batches, a process makes its part."""

    def __init__(
        self,
        samples: Samples,
        encoder: Encoder,
        config: FinetuneConfig,
        *,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self._samples, self._encoder, self._config, self._seed = samples, encoder, config, seed
        self._processes = processes

    def augmented(self, groups: list[np.ndarray], epoch: int) -> Iterator[Batch]:
        """The augmented batches of an epoch."""
        samples, size = self._samples, self.size(epoch)
        numbers = mix(samples.numbers, self._seed, epoch) if self._config.augment else None

        def load(row: int) -> Any:
            return samples.load(row, None if numbers is None else int(numbers[row]), size)

        return prepared_batches(map(self._processes.part, groups), load, self._encoder.collate)

    def plain(self, groups: list[np.ndarray]) -> Iterator[Batch]:
        """Batches without augmentation, as in extraction."""
        return prepared_batches(groups, lambda row: self._samples.load(row, None, 0), self._encoder.collate)

    def size(self, epoch: int) -> int:
        """Image size of an epoch in pixels, rising from `start_size` to the encoder's own (progressive resizing)."""
        first, full, last = self._config.start_size, self._samples.size, self._config.epochs - 1
        if not first or not full or epoch >= last:
            return full
        size = first + (full - first) * epoch / last
        return max(_SIZE_STEP, round(size / _SIZE_STEP) * _SIZE_STEP)


@torch.inference_mode()
def encoded_logits(
    encoder: Encoder, output: nn.Linear, batches: Iterable[Batch], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The decodable rows of batches, `(n,)`, and their logits, `(n, K)` float32; puts the encoder into eval mode."""
    encoder.eval()
    rows, logits = [np.zeros(0, np.int64)], [np.zeros((0, output.out_features), np.float32)]
    for batch in batches:
        if batch.inputs is not None:
            embeddings = torch.from_numpy(encoder.encode(batch.inputs, device).embeddings).to(device)
            logits.append(output(embeddings).float().cpu().numpy())
            rows.append(batch.rows)
    return np.concatenate(rows), np.concatenate(logits)
