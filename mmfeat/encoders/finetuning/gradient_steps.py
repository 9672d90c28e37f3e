"""Optimizer steps of fine-tuning: an encoder and its linear probe, forward and backward."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn

from mmfeat.common.errors import EncoderError
from mmfeat.common.losses import class_weights, known_weights, summed_loss
from mmfeat.common.progress import say
from mmfeat.common.randomness import torch_seed
from mmfeat.common.schedule import schedule
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.encoders.batches import Batch
from mmfeat.encoders.checkpoint import LinearProbe
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.finetuning.depthwise import fast_depthwise
from mmfeat.encoders.finetuning.optimisation import (
    Average,
    freeze_layers,
    has_statistics,
    keep_statistics,
    linear_probe,
    optimizer_of,
    piece_size,
    set_rate,
    training_precision,
)
from mmfeat.encoders.finetuning.processes import ALONE, Processes
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.tail import TailEncoder


class GradientSteps:
    """The trained state of a fine-tuning: encoder, linear probe, optimizer and average of the weights.

    Attributes
    ----------
    steps : int
        Steps of one epoch.
    piece : int
        Samples that are computed at a time.
    """

    def __init__(
        self,
        encoder: Encoder,
        samples: Samples,
        config: FinetuneConfig,
        *,
        seed: int,
        device: torch.device,
        start: LinearProbe | None,
        processes: Processes = ALONE,
    ) -> None:
        self.precision = training_precision(config.precision, encoder.precision, device)
        self.encoder, self.samples, self.config = encoder.to(device), samples, config
        self.seed, self.device, self.processes = seed, device, processes
        self.output = linear_probe(encoder.width, len(samples.classes), seed, start).to(device)
        freeze_layers(encoder, config.frozen_layers)
        self.parameters = [p for p in (*encoder.parameters(), *self.output.parameters()) if p.requires_grad]
        self.optimizer = optimizer_of(encoder, self.output, config)
        self.average = Average(self.parameters, config.ema) if config.ema else None
        # small gradients underflow in float16, so the loss is scaled up as far as nothing overflows
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        weights = class_weights(samples.labels[samples.train]) if config.weights == "paper" else None
        self.weights = None if weights is None else torch.as_tensor(weights, device=device)
        self.steps = math.ceil(len(samples.train) / config.batch_size)
        self.piece = piece_size(config, device, tail=isinstance(encoder, TailEncoder))

    def _step(self, batch: Batch, step: int) -> Tensor:
        """Run step number `step` of the optimizer; returns the loss before the step."""
        config = self.config
        constant = config.schedule == "constant"
        set_rate(self.optimizer, config.lr * schedule(step, config.epochs * self.steps, config.warm_up, constant))
        torch.manual_seed(self.processes.seed(torch_seed(self.seed, step)))  # dropout
        loss = self._gradients(batch)
        self.scaler.unscale_(self.optimizer)
        if config.clip:
            nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step)
        return loss

    def _gradients(self, batch: Batch) -> Tensor:
        """The loss and the gradients of a batch, to which each process contributes its part."""
        labels = torch.as_tensor(self.samples.labels[batch.rows], device=self.device)
        weight = self.processes.total(known_weights(labels, self.weights).sum()).clamp(min=1e-12)
        loss = torch.zeros((), device=self.device) if batch.inputs is None else self._in_pieces(batch, labels, weight)
        return self.processes.add_gradients(self.parameters, loss)

    def _in_pieces(self, batch: Batch, labels: Tensor, weight: Tensor) -> Tensor:
        """Run forward and backward in pieces; if memory runs out, the size of pieces is halved for all further steps."""
        while True:
            try:
                return self._accumulated(batch, labels, weight)
            except (RuntimeError, MemoryError) as error:
                if not self.encoder.out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            if self.piece == 1:
                raise EncoderError(
                    f'a single sample is too large for the memory of {self.device}. Set a smaller size, or: device = "cpu"'
                )
            self.piece = math.ceil(self.piece / 2)
            say(
                f"out of memory on {self.device}: batches are now computed in pieces of {self.piece}{self._about_pieces()}"
            )

    def _about_pieces(self) -> str:
        """How the steps differ if a batch is computed in pieces; empty if they do not."""
        if self.config.batch_norm == "frozen" or not has_statistics(self.encoder):
            return ""
        return (
            '. The steps are not the same: with batch_norm = "trained", the statistics are those of a piece. Set '
            f'batch_norm = "frozen" for the same steps, or batch_size = {self.piece} for steps on whole batches'
        )

    def _accumulated(self, batch: Batch, labels: Tensor, weight: Tensor) -> Tensor:
        whole = torch.zeros((), device=self.device)
        for piece, tensors in self.encoder.pieces(batch.inputs, self.piece):
            inputs = {name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()}
            with self.encoder.autocast(self.device, self.precision), fast_depthwise(self.device, self.precision):
                embeddings = self.encoder(inputs)
            logits = self.output(embeddings.float())
            loss, _ = summed_loss(
                logits,
                labels[piece.to(self.device)],
                self.weights,
                self.config.loss,
                smoothing=self.config.smoothing,
            )
            self.scaler.scale(loss / weight).backward()
            whole += loss.detach() / weight
        return whole

    def _train_mode(self) -> None:
        self.encoder.train()
        if self.config.batch_norm == "frozen":
            keep_statistics(self.encoder)

    def _averaged(self) -> contextlib.AbstractContextManager:
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def _tensors(self) -> dict[str, Tensor]:
        parts = (("encoder", self.encoder), ("output", self.output))
        return {f"{part}.{name}": tensor for part, module in parts for name, tensor in module.state_dict().items()}

    def _linear(self) -> LinearProbe:
        weight, bias = (p.detach().float().cpu().numpy().copy() for p in (self.output.weight, self.output.bias))
        return LinearProbe(weight, bias, self.samples.classes)
