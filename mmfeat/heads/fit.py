"""The one fit loop of all heads: everything on the device, batches by index, early stopping on val."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.config import PredictConfig
from mmfeat.errors import RunError
from mmfeat.heads import build_head
from mmfeat.heads.base import Head, log_odds
from mmfeat.labels import decide, sigmoid
from mmfeat.losses import class_weights, masked_bce
from mmfeat.metrics import better, scores
from mmfeat.randomness import epoch_order, id_numbers, torch_seed
from mmfeat.schedule import schedule

CLIP = 1.0  # largest norm of the gradient
WARM_UP = 0.05  # share of the steps


@dataclass(frozen=True)
class FitData:
    """The arrays that a fit reads, resident on one device.

    Attributes
    ----------
    inputs : dict of str to Tensor
        Embeddings `(N, D)` float32 by encoder.
    present : dict of str to Tensor
        `(N,)` bool by encoder.
    labels : Tensor
        `(N, K)` int8, or float in [0, 1] for soft targets; -1 is not known.
    numbers : np.ndarray
        `(N,)` uint64 from :func:`mmfeat.randomness.id_numbers`.
    train, val : np.ndarray
        Row numbers. Val rows choose the epoch and are never trained on.
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    numbers: np.ndarray
    train: np.ndarray
    val: np.ndarray

    @property
    def widths(self) -> dict[str, int]:
        """D by encoder."""
        return {name: tensor.shape[1] for name, tensor in self.inputs.items()}


@dataclass(frozen=True)
class FittedHead:
    """A head at its best epoch, in eval mode."""

    head: Head
    best_epoch: int  # counted from 1
    seconds: float
    history: list[dict[str, float]]


def fit_data(table: Any, names: list[str], device: torch.device, rows: np.ndarray | None = None) -> FitData:
    """Bring a FeatureTable's rows for some encoders onto a device.

    Raises
    ------
    RunError
        They do not fit there.
    """
    table = table if rows is None else table.take(rows)
    try:
        inputs, present = table.to(device, names)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        remedy = "Lower the number of fuse.inputs" + ("" if device.type == "cpu" else ", or use: --device cpu")
        raise RunError(
            f"the embeddings of {table.n_samples:,} rows do not fit in memory of {device}. {remedy}"
        ) from None
    labels = torch.as_tensor(table.labels, device=device)
    return FitData(inputs, present, labels, id_numbers(table.ids), table.rows("train"), table.rows("val"))


def fit_head(
    name: str,
    data: FitData,
    config: Any,
    *,
    metric: str = "samples-f1",
    rule: PredictConfig | None = None,
    seed: int = 0,
) -> FittedHead:
    """Train a head and keep its best epoch on val.

    Parameters
    ----------
    name : str
        A head's name: `linear`, `concat`, `crossattn`.
    config : dataclass
        The head's settings from :mod:`mmfeat.config`.
    metric : str
        What the epoch is chosen for. Without val rows the last epoch is kept.
    rule : PredictConfig, optional
        How probabilities become the labels that the metric scores (at 0.5 where it is tuned, which is done afterwards);
        the default one, when None.
    seed : int
        Fixes initial weights, order of rows and dropout; the order of the rows in `data` does not matter.

    Raises
    ------
    RunError
        The head does not take these inputs, memory runs out, or the loss or the logits become no number.
    """
    try:
        return _fit(name, data, config, metric, rule or PredictConfig(), seed)
    except (RuntimeError, MemoryError) as error:
        if _out_of_memory(error):
            size = config.batch_size or _batch_size(len(data.train))
            raise RunError(f"{name}: out of memory. Lower fuse.{name}.batch_size ({size} now)") from None
        if "overflow" in str(error):  # the optimizer's step, as a number of the tensors' type
            raise RunError(_diverged(name, config, "its step is too large for float32")) from None
        raise


def _out_of_memory(error: Exception) -> bool:
    """On a GPU, in Python, or in torch's allocator of the CPU, which has no exception of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def _diverged(name: str, config: Any, what: str) -> str:
    return f"{name}: {what}. Lower fuse.{name}.lr ({config.lr:g} now)"


def _batch_size(n_rows: int) -> int:
    return min(256, max(32, n_rows // 30))


def _in_order(data: FitData) -> FitData:
    """Train and val rows in the order of their ids' numbers: sums over them are then the same to the last bit."""
    train, val = (rows[np.argsort(data.numbers[rows], kind="stable")] for rows in (data.train, data.val))
    return dataclasses.replace(data, train=train, val=val)


def _fit(name: str, data: FitData, config: Any, metric: str, rule: PredictConfig, seed: int) -> FittedHead:
    start = time.perf_counter()
    data = _in_order(data)
    device = data.labels.device
    torch.manual_seed(torch_seed(seed, 0))
    head = build_head(name, data.widths, data.labels.shape[1], config).to(device)
    train = torch.as_tensor(data.train, device=device)
    head.fit_standardisation(
        {n: x[train] for n, x in data.inputs.items()}, {n: p[train] for n, p in data.present.items()}
    )
    with torch.no_grad():
        head.output.bias.copy_(log_odds(data.labels[train]))
    weights = None
    if config.weights == "paper":
        weights = torch.as_tensor(class_weights(data.labels[train].cpu().numpy()), device=device)
    history, best, best_epoch, best_value = [], None, 0, None
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    for epoch in range(1, config.epochs + 1):
        loss = _train_epoch(head, data, optimizer, config, seed, epoch, weights)
        if not math.isfinite(loss):
            raise RunError(_diverged(name, config, f"the loss of epoch {epoch} is {loss}"))
        record = {"epoch": epoch, "train_loss": loss}
        value = None
        if len(data.val):
            logits = head_logits(head, data, data.val)
            if not np.isfinite(logits).all():
                raise RunError(_diverged(name, config, f"the logits of epoch {epoch} are not finite"))
            decided = decide(sigmoid(logits), rule.untuned, rule.empty)
            figures = scores(data.labels[data.val].cpu().numpy(), decided, logits)
            value = figures.value(metric)
            record |= {"val_loss": figures.value("loss"), f"val_{metric}": value}
        history.append(record)
        if value is None or best_value is None or better(metric, value, best_value):
            best, best_epoch, best_value = {n: t.clone() for n, t in head.state_dict().items()}, epoch, value
        elif epoch - best_epoch >= config.patience:
            break
    head.load_state_dict(best)
    return FittedHead(head.eval(), best_epoch, time.perf_counter() - start, history)


def _train_epoch(
    head: Head, data: FitData, optimizer: Any, config: Any, seed: int, epoch: int, weights: Tensor | None
) -> float:
    head.train()
    rows = torch.as_tensor(data.train[epoch_order(data.numbers[data.train], seed, epoch)], device=data.labels.device)
    torch.manual_seed(torch_seed(seed, epoch))  # dropout
    batches = rows.split(config.batch_size or _batch_size(len(rows)))
    total, losses = len(batches) * config.epochs, []
    for step, batch in enumerate(batches, (epoch - 1) * len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(step, total, WARM_UP)
        inputs = {name: x[batch] for name, x in data.inputs.items()}
        present = {name: p[batch] for name, p in data.present.items()}
        loss = masked_bce(head(inputs, present), data.labels[batch], weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.inference_mode()
def head_logits(head: Head, data: FitData, rows: np.ndarray | None = None, batch_size: int = 8192) -> np.ndarray:
    """Logits `(n, K)` float32 of some rows (all, when None) by a head in eval mode."""
    head.eval()
    rows = np.arange(len(data.labels)) if rows is None else rows
    logits = []
    for batch in torch.as_tensor(rows, device=data.labels.device).split(batch_size):
        inputs = {name: data.inputs[name][batch] for name in head.widths}
        logits.append(head(inputs, {name: data.present[name][batch] for name in head.widths}).float().cpu().numpy())
    return np.concatenate(logits) if logits else np.zeros((0, head.n_classes), np.float32)
