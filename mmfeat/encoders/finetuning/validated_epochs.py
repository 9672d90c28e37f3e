"""Epochs of fine-tuning: train, score on val, keep the best epoch, and save the state for resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.common.labels import decide, sigmoid
from mmfeat.common.progress import progress, say
from mmfeat.common.randomness import epoch_order
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.config.schema import PredictConfig
from mmfeat.encoders.batches import groups_of
from mmfeat.encoders.checkpoint import LinearProbe
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.finetuning.gradient_steps import GradientSteps
from mmfeat.encoders.finetuning.logbook import Logbook
from mmfeat.encoders.finetuning.processes import ALONE, Processes
from mmfeat.encoders.finetuning.resume_state import (
    FitState,
    keep_state,
    kept_state,
    optimizer_tensors,
    restore_optimizer,
)
from mmfeat.encoders.finetuning.training_samples import Samples, TrainingBatches, encoded_logits
from mmfeat.metrics import Scores, better, scores

KEEP_SECONDS = 120.0  # time between two saves of the state within an epoch
_LOOK = {"cpu": 1, "cuda": 10}  # steps between two reads of the loss; each read waits for the GPU


@dataclass(frozen=True, kw_only=True)
class FittedEncoder:
    """The result of a fine-tuning. The encoder itself has the weights of the best epoch.

    Attributes
    ----------
    output : LinearProbe
        The linear probe of the best epoch.
    best_epoch : int
        From 1; 0 if no epoch was better than the encoder before fine-tuning.
    history : list of dict
        One record per epoch, and one of epoch 0 if the fit started from a fitted probe.
    last : tuple of dict and LinearProbe or None
        Encoder tensors and probe of the last epoch, if it is not the best.
    stopped : str
        The reason for an early end; empty if there was none.
    """

    output: LinearProbe
    best_epoch: int
    history: list[dict[str, Any]]
    seconds: float
    last: tuple[dict[str, Tensor], LinearProbe] | None = None
    stopped: str = ""


class EncoderFit(GradientSteps):
    """One fine-tuning: `estimate()` predicts its duration, `run()` starts or resumes it.

    Parameters
    ----------
    metric : str
        The metric on val that selects the best epoch.
    rule : PredictConfig
        The decision rule for the labels that the metric scores.
    resume_file : Path
        The file with the state of an interrupted fine-tuning.
    fingerprint : str
        Digest of everything that the fit depends on.
    start : LinearProbe, optional
        A linear probe fitted on the encoder before fine-tuning (Kumar et al., 2022); by default small random weights.
    logs : Path, optional
        A folder for TensorBoard's files.
    processes : Processes
        The processes that share the work. Each makes the same calls.

    Attributes
    ----------
    resumed : bool
        Whether it continues from a saved state.
    """

    def __init__(
        self,
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
        start: LinearProbe | None = None,
        logs: Path | None = None,
        processes: Processes = ALONE,
    ) -> None:
        val = samples.val[
            np.argsort(samples.numbers[samples.val], kind="stable")
        ]  # an order that does not depend on the manifest
        samples = dataclasses.replace(samples, val=val)
        super().__init__(encoder, samples, config, seed=seed, device=device, start=start, processes=processes)
        self.metric, self.rule, self.logs = metric, rule, logs
        self.resume_file, self.fingerprint = resume_file, fingerprint
        self.batches = TrainingBatches(samples, encoder, config, seed=seed, processes=processes)
        self.state, self.resumed = FitState(unscored=start is not None), False
        self.best: dict[str, Tensor] = {}

    def estimate(self, n_batches: int = 2) -> float:
        """Seconds that all epochs would take, from a few batches forward and backward; changes no weights."""
        buffers = {name: buffer.clone() for name, buffer in self.encoder.named_buffers()}
        self._train_mode()
        groups = groups_of(self.samples.train[: n_batches * self.config.batch_size], self.config.batch_size)
        start = time.perf_counter()
        for batch in self.batches.augmented(groups, self.config.epochs - 1):
            if self.processes.any(batch.inputs is not None):
                self._gradients(batch)
        seconds = (time.perf_counter() - start) / max(sum(map(len, groups)), 1)
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.encoder.named_buffers():
            buffer.copy_(buffers[name])
        forward = len(self.samples.val) / 3  # a forward pass is about a third of a step
        epochs = self.config.epochs - self.state.epoch - self.state.step / max(self.steps, 1)
        return seconds * (len(self.samples.train) + forward) * epochs

    def resume(self) -> int:
        """Load the state of an interrupted fine-tuning with the same fingerprint; returns the number of finished steps."""
        kept = kept_state(self.resume_file, self.fingerprint, self.device)
        if kept is None:
            return 0
        try:
            self._restore(*kept)
        except Exception as error:  # an unsealed file may contain anything
            why = f"{self.resume_file}: cannot be resumed: {one_line(error)}"
            raise EncoderError(f"{why}. Remove it and type the command again") from None
        return self.done

    def begin(self) -> int:
        """As :meth:`resume`; the state of a new fine-tuning is saved, so that other processes can resume it."""
        if not self.resume():
            self._keep()
        return self.done

    @property
    def done(self) -> int:
        """The number of finished steps."""
        return self.state.epoch * self.steps + self.state.step

    @property
    def samples_left(self) -> int:
        """About how many samples all remaining epochs have."""
        return (self.config.epochs * self.steps - self.done) * self.config.batch_size

    @property
    def ended(self) -> bool:
        """Whether no epoch is left, or the metric on val has stopped improving."""
        state, config = self.state, self.config
        return state.epoch >= config.epochs or state.epoch - state.best_epoch >= config.patience

    def _restore(self, tensors: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
        self.state, self.resumed = FitState(**record), True
        self.encoder.load_state_dict(tensors["encoder"])
        self.output.load_state_dict(tensors["output"])
        self.best = tensors.get("best", {})
        restore_optimizer(self.optimizer, tensors.get("optimizer", {}))
        if self.average:
            self.average.tensors = [tensors["average"][str(i)] for i in range(len(self.parameters))]
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def run(self, description: str) -> FittedEncoder:
        """Train until the metric on val stops improving; the encoder then has the best epoch's weights.

        Raises
        ------
        EncoderError
            As for :meth:`train`.
        """
        return self.result(self.train(description))

    def train(self, description: str) -> str:
        """Train until the metric on val stops improving; returns the reason of an early end.

        Without val rows the last epoch counts as the best. If the loss becomes infinite or NaN, the fit ends with the best
        epoch so far.

        Raises
        ------
        EncoderError
            The loss is not finite before the first epoch is complete; no training row can be decoded; or a single sample
            needs too much memory.
        """
        logbook = Logbook(self.logs, self.done)
        with progress(description, self.samples_left, "samples") as bar, contextlib.closing(logbook):
            if self.state.unscored:
                self._judge({"epoch": 0})
                self.state.unscored = False
                self._keep()
            while not self.ended:
                try:
                    self._epoch(bar, logbook)
                except Diverged as error:
                    if not self.best:
                        raise
                    return str(error)
        return ""

    def result(self, stopped: str = "") -> FittedEncoder:
        """The best epoch, and the last one; `stopped` is the reason of an early end."""
        state, last = self.state, None
        if not stopped and state.best_epoch != state.epoch:
            with self._averaged():
                last = {n: t.detach().cpu().clone() for n, t in self.encoder.state_dict().items()}, self._linear()
        self.encoder.load_state_dict(_part(self.best, "encoder."))
        self.output.load_state_dict(_part(self.best, "output."))
        return FittedEncoder(
            output=self._linear(),
            best_epoch=state.best_epoch,
            history=state.history,
            seconds=state.seconds,
            last=last,
            stopped=stopped,
        )

    def _epoch(self, bar: Any, logbook: Logbook) -> None:
        """Train one epoch, or the rest of an interrupted one, and score it on val."""
        state, start = self.state, time.perf_counter()
        rows = self.samples.train[epoch_order(self.samples.numbers[self.samples.train], self.seed, state.epoch)]
        groups = groups_of(rows, self.config.batch_size)[state.step :]
        pending: list[Tensor] = []
        kept = time.monotonic()
        self._train_mode()
        for group, batch in zip(groups, self.batches.augmented(groups, state.epoch), strict=True):
            if self.processes.any(batch.inputs is not None):
                pending.append(self._step(batch, state.epoch * self.steps + state.step))
            state.step += 1
            if len(pending) < _LOOK[self.device.type] and state.step < self.steps:
                bar.advance(len(group))
                continue
            self._look(pending, logbook, len(group), bar)
            if time.monotonic() - kept > KEEP_SECONDS and state.step < self.steps:
                state.seconds, start = state.seconds + time.perf_counter() - start, time.perf_counter()
                self._keep()
                kept = time.monotonic()
        if not state.losses:
            raise EncoderError("no labelled row to train on can be read and decoded. To see why: mmfeat extract")
        record = {"epoch": state.epoch + 1, "train_loss": float(np.mean(state.losses))}
        state.epoch, state.step, state.losses = state.epoch + 1, 0, []
        self._judge(record)
        state.seconds += time.perf_counter() - start
        record["seconds"] = state.seconds
        logbook.write(state.epoch * self.steps, {k.replace("_", "/", 1): v for k, v in record.items() if "_" in k})
        self._keep()

    def _look(self, pending: list[Tensor], logbook: Logbook, n: int, bar: Any) -> None:
        """Read and log the losses of the last steps.

        Raises
        ------
        Diverged
            A loss is not finite.
        """
        state = self.state
        losses = torch.stack(pending).tolist() if pending else []
        pending.clear()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = state.step - len(losses) + i + 1
                raise Diverged(f"epoch {state.epoch + 1}, step {step}: the loss is {loss}")
        state.losses += losses
        best = "" if state.best_value is None else f", best {self.metric} {state.best_value:.3f}"
        note = f"loss {losses[-1]:.3f}" if losses else ""
        bar.advance(n, f"epoch {state.epoch + 1}, {note}{best}")
        if losses:
            rate = self.optimizer.param_groups[-1]["lr"]
            logbook.write(state.epoch * self.steps + state.step, {"train/loss": losses[-1], "train/lr": rate})

    def _judge(self, record: dict[str, Any]) -> None:
        """Add an epoch's metrics on val to its record, and keep its weights if it is the best so far."""
        state = self.state
        self.processes.make_equal([*self._tensors().values(), *(self.average.tensors if self.average else ())])
        with self._averaged():
            found = self._validate()
            value = found.value(self.metric) if found else None
            if value is None or state.best_value is None or better(self.metric, value, state.best_value):
                state.best_value, state.best_epoch = value, record["epoch"]
                self.best = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        record |= {f"val_{name.replace('-', '_')}": found.value(name) for name in _KEPT} if found else {}
        if found or record["epoch"]:
            state.history.append(record)
        if found and record["epoch"]:
            say(f"epoch {record['epoch']}: {', '.join(f'{_NAMES[k]} {record[k]:.3f}' for k in _NAMES if k in record)}")

    def _validate(self) -> Scores | None:
        """Scores of the val rows that can be decoded; None if there are none."""
        val = self.samples.val
        batches = self.batches.plain(groups_of(self.processes.part(val), self.piece))
        rows, logits = self.processes.gathered(val, *encoded_logits(self.encoder, self.output, batches, self.device))
        if not len(rows):
            return None
        labels = decide(sigmoid(logits), self.rule.untuned, self.rule.empty)
        return scores(self.samples.labels[rows], labels, logits)

    def _keep(self) -> None:
        """Save the state for `resume`."""
        if not self.processes.first:
            return
        self.state.scaler = self.scaler.state_dict()
        tensors = {
            "encoder": self.encoder.state_dict(),
            "output": self.output.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer),
            "average": {str(i): t for i, t in enumerate(self.average.tensors)} if self.average else {},
        }
        keep_state(self.resume_file, tensors, {**vars(self.state), "fingerprint": self.fingerprint})


_KEPT = ("loss", "samples-f1", "macro-f1", "map")  # metrics on val in the history
_NAMES = {
    "train_loss": "loss",
    "val_loss": "val loss",
    "val_samples_f1": "samples-F1",
    "val_macro_f1": "macro-F1",
    "val_map": "mAP",
}


class Diverged(EncoderError):
    """The loss is not finite."""


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
