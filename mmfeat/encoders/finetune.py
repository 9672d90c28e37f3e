"""Fine-tuning one encoder with a linear output on its modality (paper, section 3.1; P4 to P8).

Randomness is a function of (seed, epoch, id) and the state is kept after every epoch, so that an interrupted
fine-tuning, started again, ends as the undisturbed one would have.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.batches import Batch, groups_of, prepared_batches
from mmfeat.config import FinetuneConfig, PredictConfig
from mmfeat.encoders.base import Encoder
from mmfeat.encoders.checkpoint import Output
from mmfeat.errors import EncoderError
from mmfeat.files import atomic_path
from mmfeat.labels import decide, sigmoid
from mmfeat.losses import class_weights, masked_loss
from mmfeat.metrics import better, scores
from mmfeat.progress import progress
from mmfeat.randomness import epoch_order, mix, torch_seed
from mmfeat.schedule import schedule

WARM_UP = 0.1  # share of all steps over which the learning rate rises; it falls to zero as a cosine afterwards
CLIP = 1.0  # largest norm of the gradient


@dataclass(frozen=True)
class Samples:
    """What fine-tuning reads.

    Attributes
    ----------
    load : callable
        (row, augmentation number or None) to a prepared sample; with a number, a random variant of it.
    labels : np.ndarray
        `(N, K)` int8.
    numbers : np.ndarray
        `(N,)` uint64, one for each id.
    train, val : np.ndarray
        Row numbers.
    """

    load: Callable[[int, int | None], Any]
    labels: np.ndarray
    numbers: np.ndarray
    train: np.ndarray
    val: np.ndarray
    classes: tuple[str, ...]


@dataclass
class _State:
    """Where a fine-tuning stands between two epochs."""

    epoch: int = 0
    best_epoch: int = -1
    best_value: float | None = None
    seconds: float = 0.0
    history: list[dict[str, Any]] | None = None
    scaler: dict[str, Any] | None = None


@dataclass(frozen=True)
class FittedEncoder:
    """The best epoch: the encoder holds its weights; `output` its linear output; `history` one record an epoch."""

    output: Output
    best_epoch: int
    history: list[dict[str, Any]]
    seconds: float


class EncoderFit:
    """One fine-tuning: `estimate()` says how long it will take, `run()` does it or goes on with it."""

    def __init__(
        self, encoder: Encoder, samples: Samples, config: FinetuneConfig, metric: str, rule: PredictConfig, seed: int,
        device: torch.device, resume_file: Path, fingerprint: str,
    ) -> None:  # fmt: skip
        val = samples.val[np.argsort(samples.numbers[samples.val], kind="stable")]  # in an order of the rows' own
        samples = dataclasses.replace(samples, val=val)
        check_precision(encoder.precision, device)
        self.encoder, self.samples, self.config, self.metric = encoder.to(device), samples, config, metric
        self.rule = rule
        self.seed, self.device, self.resume_file, self.fingerprint = seed, device, resume_file, fingerprint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.output = nn.Linear(encoder.width, len(samples.classes)).to(device)
        nn.init.zeros_(self.output.bias)
        self.parameters = [p for p in (*encoder.parameters(), *self.output.parameters()) if p.requires_grad]
        self.optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer](
            self.parameters, lr=config.lr
        )
        # float16 has no place for small gradients: the loss is scaled up, as long as nothing overflows
        self.scaler = torch.amp.GradScaler(device.type, enabled=encoder.precision == "float16")
        weights = class_weights(samples.labels[samples.train]) if config.weights == "paper" else None
        self.weights = None if weights is None else torch.as_tensor(weights, device=device)
        self.steps = math.ceil(len(samples.train) / config.batch_size)
        self.state = _State(history=[])
        self.best: dict[str, Tensor] = {}

    def estimate(self, n_batches: int = 2) -> float:
        """Seconds that all epochs would take, from a few batches forward and backward; changes no weights."""
        buffers = {name: buffer.clone() for name, buffer in self.encoder.named_buffers()}
        self.encoder.train()
        groups = groups_of(self.samples.train[: n_batches * self.config.batch_size], self.config.batch_size)
        start = time.perf_counter()
        for batch in self._batches(groups, epoch=0):
            self._loss(batch).backward()
        seconds = (time.perf_counter() - start) / max(sum(map(len, groups)), 1)
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.encoder.named_buffers():
            buffer.copy_(buffers[name])
        forward = len(self.samples.val) / 3  # a forward pass is about a third of a step
        return seconds * (len(self.samples.train) + forward) * (self.config.epochs - self.state.epoch)

    def resume(self) -> int:
        """Go back to the last finished epoch of an interrupted fine-tuning of the same; returns how many there are."""
        from safetensors import safe_open

        if not self.resume_file.is_file():
            return 0
        try:
            with safe_open(self.resume_file, "pt", device=str(self.device)) as file:
                record = json.loads(file.metadata()["state"])
                if record.pop("fingerprint") != self.fingerprint:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except Exception:  # a damaged state is as good as none: the epochs are done again
            return 0
        self.state = _State(**record)
        self.encoder.load_state_dict(_part(tensors, "encoder."))
        self.output.load_state_dict(_part(tensors, "output."))
        self.best = _part(tensors, "best.")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)
        return self.state.epoch

    def run(self, description: str) -> FittedEncoder:
        """Train until val no longer rises; leaves the best epoch's weights in the encoder, the last one's without val rows.

        Raises
        ------
        EncoderError
            The loss is not a number (the epoch and step are named; the last finished epoch is kept for a resume); no
            row to train on can be encoded.
        """
        config, state = self.config, self.state
        total = (config.epochs - state.epoch) * self.steps * config.batch_size
        with progress(description, total, "samples") as bar:
            while state.epoch < config.epochs and state.epoch - state.best_epoch <= config.patience:
                start = time.perf_counter()
                loss = self._epoch(state.epoch, bar)
                value, figures = self._validate()
                if value is None or state.best_value is None or better(self.metric, value, state.best_value):
                    state.best_value, state.best_epoch = value, state.epoch
                    self.best = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
                state.history.append({"epoch": state.epoch + 1, "train_loss": loss, **figures})
                state.seconds += time.perf_counter() - start
                state.epoch += 1
                state.scaler = self.scaler.state_dict()
                self._keep()
        self.encoder.load_state_dict(_part(self.best, "encoder."))
        self.output.load_state_dict(_part(self.best, "output."))
        weight, bias = (p.detach().float().cpu().numpy() for p in (self.output.weight, self.output.bias))
        output = Output(weight, bias, self.samples.classes)
        return FittedEncoder(output, state.best_epoch + 1, state.history, state.seconds)

    def _epoch(self, epoch: int, bar: Any) -> float:
        """Train one epoch; returns the mean loss."""
        self.encoder.train()
        torch.manual_seed(torch_seed(self.seed, epoch))  # dropout
        rows = self.samples.train[epoch_order(self.samples.numbers[self.samples.train], self.seed, epoch)]
        total, losses = self.config.epochs * self.steps, []
        for step, batch in enumerate(self._batches(groups_of(rows, self.config.batch_size), epoch), epoch * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.lr * schedule(step, total, WARM_UP)
            loss = self._loss(batch)
            if not torch.isfinite(loss):
                raise EncoderError(
                    f"epoch {epoch + 1}, step {step + 1}: the loss is {loss.item()}. "
                    f"The last whole epoch is kept; set a lower lr under [finetune.NAME] in mmfeat.toml"
                )
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            losses.append(loss.item())
            best = "" if self.state.best_value is None else f", best {self.metric} {self.state.best_value:.3f}"
            bar.advance(self.config.batch_size, f"epoch {epoch + 1}, loss {losses[-1]:.3f}{best}")
        if not losses:
            raise EncoderError("no labelled row to train on can be read and decoded. To see why: mmfeat extract")
        return float(np.mean(losses))

    def _loss(self, batch: Batch) -> Tensor:
        inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        labels = torch.as_tensor(self.samples.labels[batch.rows], device=self.device)
        with self.encoder.autocast(self.device):
            embeddings = self.encoder(inputs)
        return masked_loss(self.output(embeddings.float()), labels, self.weights)

    def _batches(self, groups: list[np.ndarray], epoch: int | None) -> Any:
        numbers = None if epoch is None else mix(self.samples.numbers, self.seed, epoch)

        def load(row: int) -> Any:
            return self.samples.load(row, None if numbers is None or not self.config.augment else int(numbers[row]))

        return (b for b in prepared_batches(groups, load, self.encoder.collate) if b.inputs is not None)

    @torch.inference_mode()
    def _validate(self) -> tuple[float | None, dict[str, float]]:
        """The metric on val and the figures for the history; a row that cannot be read is left out, None where all are."""
        self.encoder.eval()
        logits, rows = [], []
        for batch in self._batches(groups_of(self.samples.val, 2 * self.config.batch_size), epoch=None):
            embeddings = torch.from_numpy(self.encoder.encode(batch.inputs, self.device).embeddings)
            logits.append(self.output(embeddings.to(self.device)).float().cpu().numpy())
            rows.append(batch.rows)
        if not rows:
            return None, {}
        joined = np.concatenate(logits)
        decided = decide(sigmoid(joined), self.rule.untuned, self.rule.empty)
        figures = scores(self.samples.labels[np.concatenate(rows)], decided, joined)
        return figures.value(self.metric), {
            "val_loss": figures.value("loss"),
            "val_samples_f1": figures.value("samples-f1"),
        }

    def _tensors(self) -> dict[str, Tensor]:
        parts = (("encoder", self.encoder), ("output", self.output))
        return {f"{part}.{name}": tensor for part, module in parts for name, tensor in module.state_dict().items()}

    def _keep(self) -> None:
        """Write everything that `resume` needs, atomically, in one file."""
        from safetensors.torch import save_file

        tensors = {**self._tensors(), **{f"best.{name}": tensor for name, tensor in self.best.items()}}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()})
        record = json.dumps({**vars(self.state), "fingerprint": self.fingerprint})
        with atomic_path(self.resume_file) as temporary:
            save_file(
                {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}, temporary, {"state": record}
            )


def fit_encoder(
    encoder: Encoder,
    samples: Samples,
    config: FinetuneConfig,
    *,
    metric: str,
    rule: PredictConfig,
    seed: int,
    device: torch.device,
    resume_file: Path,
    fingerprint: str,
    before: Callable[[int, float], None] | None = None,
) -> FittedEncoder:
    """Fine-tune an encoder, going on with an interrupted fit of the same fingerprint.

    The encoder ends with the weights of its best epoch on val, or of the last where no val row can be encoded. The state stays in `resume_file` until the caller, who has
    saved the result, removes it.

    Parameters
    ----------
    rule : PredictConfig
        How probabilities become the labels that the metric scores, at 0.5 where it is tuned.
    fingerprint : str
        Digest of all that the fit depends on.
    before : callable, optional
        Told how many epochs are done already and about how many seconds the rest will take.

    Raises
    ------
    EncoderError
        The loss became no number; no row to train on can be encoded; the device cannot train in this precision.
    """
    fit = EncoderFit(encoder, samples, config, metric, rule, seed, device, resume_file, fingerprint)
    done = fit.resume()
    if before is not None:
        before(done, fit.estimate())
    return fit.run(f"fine-tuning {encoder.architecture}")


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse to train in float16 where gradients cannot be kept from vanishing.

    Raises
    ------
    EncoderError
        The device is a CPU and the precision float16.
    """
    if precision == "float16" and device.type == "cpu":
        raise EncoderError('no fine-tuning in float16 on a CPU. Set: precision = "bfloat16" or "float32"')


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
