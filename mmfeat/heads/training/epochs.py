"""Trains a stack of heads by epochs: each head keeps its best epoch on val, stops on its own, and then takes no more time."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.progress import Progress
from mmfeat.common.text import counted
from mmfeat.config.schema import PredictConfig
from mmfeat.heads.head import Head
from mmfeat.heads.training.members import PlannedStack
from mmfeat.heads.training.stack import Arrays, Stack
from mmfeat.metrics import better
from mmfeat.metrics.fast_metric import metric_values

EVALUATED = 8192  # val rows evaluated at a time


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A head at its best epoch, in eval mode.

    Attributes
    ----------
    best_epoch : int
        Counted from 1.
    seconds : float
        The head's share of the time of its pass.
    error : str
        The reason why the fit failed; empty if it did not.
    """

    head: Head
    best_epoch: int
    seconds: float
    history: list[dict[str, float]]
    error: str = ""


class _Kept:
    """The best epoch of one head, and its history."""

    def __init__(self) -> None:
        self.best: dict[str, Tensor] | None = None
        self.best_epoch, self.best_value = 0, None
        self.history: list[dict[str, float]] = []
        self.error, self.stopped = "", False

    def judge(self, metric: str, epoch: int, value: float | None, *, patience: int, state: Callable[[], Any]) -> None:
        """Keep the epoch if it is the best so far, or if there are no val rows; stop after `patience` worse epochs."""
        if value is None or self.best_value is None or better(metric, value, self.best_value):
            self.best, self.best_epoch, self.best_value = state(), epoch, value
        elif epoch - self.best_epoch >= patience:
            self.stopped = True


def fit_stack(
    heads: list[Head],
    arrays: Arrays,
    planned: PlannedStack,
    *,
    batch_size: int,
    metric: str,
    rule: PredictConfig,
    bar: Progress | None = None,
    choose_by: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[FittedHead]:
    """Train the heads of a stack to their best epochs; returns them in the order of `planned.places`.

    Parameters
    ----------
    heads : list of Head
        For each stream, an untrained head with fitted standardisation.
    choose_by : callable, optional
        Maps the metrics of all heads `(M,)`, in the order of places, to the values that select their epochs. Heads then
        stop only all together.
    """
    start, config, spent = time.perf_counter(), planned.config, 0
    stack = Stack(heads, arrays, planned.streams, variants=planned.variants, config=config)
    kept = {(s, v): _Kept() for s in range(len(planned.streams)) for v in range(len(planned.variants))}
    rows, columns = np.arange(len(planned.streams)), np.arange(len(planned.variants))  # heads that are still trained
    for epoch in range(1, config.epochs + 1):
        losses = stack.train_epoch(epoch, batch_size)
        logits = stack.logits(EVALUATED)
        values = {}
        for i, s in enumerate(rows):
            for j, v in enumerate(columns):
                values[s, v] = _value(arrays, stack.judging(i, j), logits[i][j], metric=metric, rule=rule)
        chosen = values
        if choose_by is not None:
            order = [(s, v) for _, s, v in planned.places]
            chosen = dict(zip(order, choose_by(np.array([values[at] for at in order])), strict=True))
        for i, s in enumerate(rows):
            for j, v in enumerate(columns):
                one = kept[s, v]
                if one.stopped and choose_by is None:
                    continue
                _record(one, epoch, losses[i, j], logits=logits[i][j], metric=metric, value=values[s, v])
                if not one.stopped:  # training of a stopped head may continue, because other heads' epochs depend on it
                    state = functools.partial(stack.state, i, j)  # copied only if it is kept
                    one.judge(metric, epoch, chosen[s, v], patience=config.patience, state=state)
        going = np.array([[not kept[s, v].stopped for v in columns] for s in rows])
        if bar is not None:
            spent += int(going.sum())
            bar.advance(int(going.sum()), f"epoch {epoch}, {going.sum()} of {counted(len(kept), 'head')} not stopped")
        if not going.any():
            break
        if choose_by is None and not (going.any(0).all() and going.any(1).all()):
            stack.keep(np.flatnonzero(going.any(1)), np.flatnonzero(going.any(0)))
            rows, columns = rows[going.any(1)], columns[going.any(0)]
    if bar is not None:
        bar.advance(config.epochs * len(planned.places) - spent)
    seconds = (time.perf_counter() - start) / len(planned.places)
    return [_fitted(heads[s], kept[s, v], seconds) for _, s, v in planned.places]


def _value(arrays: Arrays, val: np.ndarray, logits: np.ndarray, *, metric: str, rule: PredictConfig) -> float | None:
    """A head's metric on its val rows; None without val rows, NaN if the logits `(n, K)` are not finite."""
    if not len(val):
        return None
    if not np.isfinite(logits).all():
        return float("nan")
    labels = arrays.labels[torch.as_tensor(val)].cpu().numpy()
    return float(metric_values(metric, labels, logits[None], rule=rule)[0])


def _record(one: _Kept, epoch: int, loss: float, *, logits: np.ndarray, metric: str, value: float | None) -> None:
    """Add an epoch to a head's history; a head whose loss or logits are not finite is stopped with an error."""
    record = {"epoch": epoch, "train_loss": float(loss)}
    if value is not None:
        record[f"val_{metric}"] = value
    one.history.append(record)
    what = f"the loss of epoch {epoch} is {loss}" if not np.isfinite(loss) else ""
    if not what and not np.isfinite(logits).all():
        what = f"the logits of epoch {epoch} are not finite"
    if what:
        one.error, one.stopped = what, True


def _fitted(template: Head, one: _Kept, seconds: float) -> FittedHead:
    head = copy.deepcopy(template)
    if one.best is not None:
        head.load_state_dict(one.best, strict=False)
    return FittedHead(
        head=head.eval(), best_epoch=one.best_epoch, seconds=seconds, history=one.history, error=one.error
    )
