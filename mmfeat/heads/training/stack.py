"""Trains many heads of one shape in one vectorised pass, with stacked parameters (torch.func, Horace He et al.).

A stack is a grid of streams and variants. Heads of one stream read the same rows in the same order with the same dropout, so
that a batch is gathered once for all of them, and a linear layer on it is one matrix product. Variants differ in the held-out
fold, learning rate and weight decay.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmfeat.common.losses import class_weights, masked_loss
from mmfeat.common.optimizers import OPTIMIZERS
from mmfeat.common.randomness import epoch_order, torch_seed
from mmfeat.common.schedule import schedule
from mmfeat.heads.head import Head, log_odds
from mmfeat.heads.noise import LEVELS, Noise, Widths

MOST_NUMBERS = 2**24  # values in a batch without gradients
WARM_UP = 0.05  # share of the steps, before a cosine schedule
NO_FOLD = -1
# The share of given weights in those that a fit starts from; the rest are new ones ("shrink and perturb", Ash & Adams 2020,
# arXiv:1910.08475). From the given weights alone, heads end up worse than from nothing: they have fitted the former rows.
KEPT = 0.4
LARGE = 2**18  # parameters of a head whose arithmetic takes most of the time


@dataclass(frozen=True, eq=False)
class Arrays:
    """Standardised embeddings `(N, D)` float32, presence and labels by row, numbers of the ids, folds."""

    x: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    numbers: np.ndarray
    fold: Tensor | None = None  # (N,) int64, if a variant has a held-out fold
    weights: Tensor | None = None  # (N, K) float32, weight of each label


@dataclass(frozen=True, eq=False)
class Stream:
    """Heads with the same batches: one seed, one set of rows, one dropout rate per setting, and the weights to start from."""

    seed: int
    train: np.ndarray
    val: np.ndarray
    rates: dict[str, float]
    start: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Variant:
    """Settings of one head within a stream; labels of `fold`, unless it is negative, are excluded from its loss."""

    lr: float
    weight_decay: float
    fold: int = NO_FOLD


class _Logits(nn.Module):
    """A head for `functional_call`: its forward pass computes the logits of a fit."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Any, present: Any, rates: Any, random: Any) -> Tensor:
        return self.head.logits(x, present, Noise(rates, random))


class Stack:
    """S x V heads of one shape, their optimizer, and their order of rows.

    Parameters
    ----------
    heads : list of Head
        A freshly initialised head for each stream.
    config : Any
        The settings that all heads share: loss, class weights, optimizer, schedule, clipping.
    """

    def __init__(
        self, heads: list[Head], arrays: Arrays, streams: list[Stream], *, variants: list[Variant], config: Any
    ) -> None:
        self.arrays, self.streams, self.variants, self.config = arrays, streams, variants, config
        self.device = arrays.labels.device
        self.module = _Logits(heads[0])
        training = [{fold: self._training_labels(s, fold) for fold in {v.fold for v in variants}} for s in streams]
        places = [(s, v.fold) for s in range(len(streams)) for v in variants]
        states: list[dict[str, Tensor]] = []
        for s, fold in places:
            heads[s].start_from(log_odds(training[s][fold]))
            states.append({f"head.{name}": p for name, p in _first_weights(heads[s], streams[s].start)})
        grid = (len(streams), len(variants))
        self.parameters = {
            name: torch.stack([state[name] for state in states]).unflatten(0, grid) for name in states[0]
        }  # (S, V, ...)
        self.weights = None
        if config.weights == "paper":
            each = {(s, fold): class_weights(training[s][fold].cpu().numpy()) for s, fold in places}
            stacked = np.stack([each[place] for place in places])
            self.weights = torch.as_tensor(stacked, device=self.device).unflatten(0, grid)  # (S, V, K)
        self.widths = self._noise_widths(heads[0])
        self.optimizer = self._optimizer()

    def _training_labels(self, stream: Stream, fold: int) -> Tensor:
        """The labels `(n, K)` that a head of a stream is trained on."""
        rows = torch.as_tensor(stream.train, device=self.device)
        return self.arrays.labels[rows if fold == NO_FOLD else rows[self.arrays.fold[rows] != fold]]

    def _noise_widths(self, head: Head) -> dict[str, int]:
        """Random numbers for one row, by the dropout rates that are not 0 in this stack."""
        counter = Widths()
        one = {name: x[:1].float() for name, x in self.arrays.x.items()}
        with torch.no_grad():
            head.logits(one, {name: p[:1] for name, p in self.arrays.present.items()}, counter)
        return {rate: w for rate, w in counter.counted.items() if any(s.rates.get(rate) for s in self.streams)}

    def _optimizer(self) -> torch.optim.Optimizer:
        """One group for each head, on views of its slice of the stacked tensors."""
        groups = []
        for s in range(len(self.streams)):
            for v, variant in enumerate(self.variants):
                own = {"lr": variant.lr, "weight_decay": variant.weight_decay}
                groups.append({"params": [p.detach()[s, v] for p in self.parameters.values()], **own})
        return OPTIMIZERS[self.config.optimizer](groups, fused=True)

    def keep(self, streams: np.ndarray, variants: np.ndarray) -> None:
        """Continue with a selection of streams and variants; the optimizer's state of all others is dropped."""
        old = self.optimizer
        groups = np.arange(len(old.param_groups)).reshape(len(self.streams), len(self.variants))
        kept = groups[streams][:, variants].ravel()
        at, across = torch.as_tensor(streams, device=self.device), torch.as_tensor(variants, device=self.device)
        self.parameters = {n: p.detach()[at][:, across].contiguous() for n, p in self.parameters.items()}
        self.streams = [self.streams[s] for s in streams]
        self.variants = [self.variants[v] for v in variants]
        if self.weights is not None:
            self.weights = self.weights[at][:, across]
        self.optimizer = self._optimizer()
        for group, was in zip(self.optimizer.param_groups, kept, strict=True):
            for part, before in zip(group["params"], old.param_groups[was]["params"], strict=True):
                self.optimizer.state[part] = old.state[before]

    def train_epoch(self, epoch: int, batch_size: int) -> np.ndarray:
        """One pass over every stream's rows; returns the mean loss of its batches by head, `(S, V)` float64."""
        order = self._order(epoch)  # (S, n)
        generators = self._generators(epoch)
        n_steps, losses = -(-order.shape[1] // batch_size), []
        for step in range(n_steps):
            rows = order[:, step * batch_size : (step + 1) * batch_size]
            share = self._share((epoch - 1) * n_steps + step, n_steps * self.config.epochs)
            for group, variant in zip(self.optimizer.param_groups, self.variants * len(self.streams), strict=True):
                group["lr"] = variant.lr * share
            losses.append(self._step(rows, generators))
        return torch.stack(losses).mean(0).double().cpu().numpy()

    def _share(self, step: int, total: int) -> float:
        """The factor of the learning rates at a step."""
        return 1.0 if self.config.schedule == "constant" else schedule(step, total, WARM_UP)

    def _blocks(self) -> list[slice]:
        """Streams whose gradients are computed together. On a CPU, large heads are faster one by one, within its cache."""
        n, numbers = len(self.streams), sum(p[0, 0].numel() for p in self.parameters.values())
        size = 1 if self.device.type == "cpu" and numbers > LARGE else n
        return [slice(start, start + size) for start in range(0, n, size)]

    def _step(self, rows: Tensor, generators: dict[str, list[torch.Generator]]) -> Tensor:
        losses = [
            self._gradients(block, rows[block], {rate: of[block] for rate, of in generators.items()})
            for block in self._blocks()
        ]
        self.optimizer.step()
        return torch.cat(losses)

    def _gradients(self, block: slice, rows: Tensor, generators: dict[str, list[torch.Generator]]) -> Tensor:
        """Set the gradients of some streams' heads on the batch `rows` `(S, B)`, where -1 is padding; returns the losses."""
        gathered = rows.clamp(min=0)
        labels = torch.where((rows >= 0)[..., None], _gather(self.arrays.labels, gathered), -1)  # (S, B, K)
        x = {name: _gather(values, gathered) for name, values in self.arrays.x.items()}
        present = {name: _gather(values, gathered) for name, values in self.arrays.present.items()}
        random = {
            rate: torch.stack([_random_bytes(rows.shape[1], width, g) for g in generators[rate]]).to(self.device)
            for rate, width in self.widths.items()
        }
        rates = {
            rate: torch.tensor(
                [round(s.rates[rate] * LEVELS) for s in self.streams[block]], dtype=torch.uint8, device=self.device
            )
            for rate in random
        }
        parameters = {name: p.detach()[block].requires_grad_() for name, p in self.parameters.items()}
        logits = self._forward(parameters, x, present, rates, random)  # (S, V, B, K)
        fold = None if self.arrays.fold is None else _gather(self.arrays.fold, gathered)  # (S, B)
        cells = None if self.arrays.weights is None else _gather(self.arrays.weights, gathered)  # (S, B, K)
        losses = self._losses(logits, labels, None if self.weights is None else self.weights[block], cells, fold)
        grads = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
        self._clip([g for g in grads if g is not None])
        n = len(self.variants)
        groups = self.optimizer.param_groups[block.start * n : block.stop * n]
        for grad, parts in zip(grads, zip(*(g["params"] for g in groups), strict=True), strict=True):
            if grad is None:
                continue
            # The fused optimizer assumes that a parameter and its gradient have the same layout in memory.
            for part, its in zip(parts, grad.contiguous().flatten(0, 1).unbind(), strict=True):
                part.grad = its
        return losses.detach()

    def _forward(
        self, parameters: dict[str, Tensor], x: Any, present: Any, rates: Any, random: Any, shared: bool = False
    ) -> Tensor:
        """Logits `(S, V, B, K)`; if `shared`, all streams have the same rows, and inputs have no dimension of streams."""

        def one(p: Any, x: Any, present: Any, rates: Any, random: Any) -> Tensor:
            return functional_call(self.module, p, (x, present, rates, random))

        n_streams, n_variants = next(iter(parameters.values())).shape[:2]
        over_variants = vmap(one, in_dims=(0, None, None, None, None))
        if n_streams > 1:
            streams = None if shared else 0
            return vmap(over_variants, in_dims=(0, streams, streams, 0, 0))(parameters, x, present, rates, random)
        x, present = (x, present) if shared else (_first(x), _first(present))
        if n_variants > 1:
            return over_variants(_first(parameters), x, present, _first(rates), _first(random))[None]
        only = {
            name: p.view(p.shape[2:]) for name, p in parameters.items()
        }  # spares what vmap costs on every operation
        return one(only, x, present, _first(rates), _first(random))[None, None]

    def _losses(
        self, logits: Tensor, labels: Tensor, weights: Tensor | None, cells: Tensor | None, fold: Tensor | None
    ) -> Tensor:
        """`(S, V)` of logits `(S, V, B, K)`, labels `(S, B, K)`, weights of classes `(S, V, K)` and of labels `(S, B, K)`,
        and folds `(S, B)`.
        """
        left_out = torch.tensor([v.fold for v in self.variants], device=self.device)

        def loss(logits: Tensor, labels: Tensor, weights: Any, cells: Any, fold: Any, out: Tensor) -> Tensor:
            if cells is not None:
                weights = cells if weights is None else cells * weights
            if fold is not None:
                labels = torch.where((fold == out)[:, None], -1, labels)
            return masked_loss(logits, labels, weights, self.config.loss)

        each, by_cell, by_row = (None if given is None else 0 for given in (weights, cells, fold))
        over_variants = vmap(loss, in_dims=(0, None, each, None, None, 0))
        over_streams = vmap(over_variants, in_dims=(0, 0, each, by_cell, by_row, None))
        return over_streams(logits, labels, weights, cells, fold, left_out)

    def _clip(self, grads: list[Tensor]) -> None:
        """Scale each head's gradient to a norm of at most `clip`, like torch.nn.utils.clip_grad_norm_ for one model."""
        if not self.config.clip:
            return
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(2), dim=-1) for g in grads])  # (parameters, S, V)
        scale = (self.config.clip / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1)
        if bool((scale < 1).any()):
            for g in grads:
                g.mul_(scale.view(*scale.shape, *[1] * (g.dim() - 2)))

    def _order(self, epoch: int) -> Tensor:
        """Rows in the order in which each stream visits them, `(S, n)`; shorter streams are padded with -1."""
        orders = [s.train[epoch_order(self.arrays.numbers[s.train], s.seed, epoch)] for s in self.streams]
        filled = np.full((len(orders), max(map(len, orders))), -1, dtype=np.int64)
        for line, order in zip(filled, orders, strict=True):
            line[: len(order)] = order
        return torch.as_tensor(filled, device=self.device)

    def _generators(self, epoch: int) -> dict[str, list[torch.Generator]]:
        """One generator per rate and stream, so that the numbers of one rate do not depend on other rates."""
        return {
            rate: [
                torch.Generator().manual_seed(torch_seed(s.seed, epoch) ^ zlib.crc32(rate.encode()))
                for s in self.streams
            ]
            for rate in self.widths
        }

    def judging(self, s: int, v: int) -> np.ndarray:
        """The rows that a head is evaluated on: its stream's val rows, or those of its held-out fold."""
        val, fold = self.streams[s].val, self.variants[v].fold
        return val if fold == NO_FOLD else val[(self.arrays.fold[val] == fold).cpu().numpy()]

    @torch.no_grad()
    def logits(self, batch_size: int) -> list[list[np.ndarray]]:
        """Logits `(n, K)` float32 of the rows that each head is evaluated on, by stream and variant."""
        parameters, variants = self.parameters, range(len(self.variants))
        folded = any(v.fold != NO_FOLD for v in self.variants)
        if folded:  # heads of one stream are evaluated on different rows: each counts as a stream
            parameters = {name: p.flatten(0, 1)[:, None] for name, p in parameters.items()}
            groups = [self.judging(s, v) for s in range(len(self.streams)) for v in variants]
        else:
            groups = [s.val for s in self.streams]
        shared = all(group is groups[0] for group in groups)
        groups = groups[:1] if shared else groups
        n = max(map(len, groups))
        rows = np.zeros((len(groups), n), dtype=np.int64)
        for line, group in zip(rows, groups, strict=True):
            line[: len(group)] = group
        found, numbers = [], sum(x[0].numel() for x in self.arrays.x.values())  # tokens are many
        size = max(1, min(batch_size, MOST_NUMBERS // numbers) // len(groups))
        for batch in torch.as_tensor(rows, device=self.device).split(size, 1):
            batch = batch[0] if shared else batch
            x = {name: _gather(values, batch) for name, values in self.arrays.x.items()}
            present = {name: _gather(values, batch) for name, values in self.arrays.present.items()}
            found.append(self._forward(parameters, x, present, {}, {}, shared).float().cpu().numpy())
        joined = np.concatenate(found, 2)
        joined = joined.reshape(len(self.streams), len(self.variants), *joined.shape[2:])
        return [[joined[s, v, : len(self.judging(s, v))] for v in variants] for s in range(len(self.streams))]

    def state(self, s: int, v: int) -> dict[str, Tensor]:
        """A copy of one head's present parameters."""
        return {name.removeprefix("head."): p.detach()[s, v].clone() for name, p in self.parameters.items()}


def _first_weights(head: Head, start: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
    """Parameters by name: copies of the head's own, or a mixture of them with those of a trained head."""
    for name, parameter in head.named_parameters():
        own = parameter.detach()
        yield name, own.clone() if start is None else own.lerp(start[name].to(own.device), KEPT)


def _gather(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]` for rows of any shape; float16 becomes float32."""
    found = values.index_select(0, rows.reshape(-1)).unflatten(0, rows.shape)
    return found.float() if found.is_floating_point() else found


def _first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[0] for name, tensor in tensors.items()}


def _random_bytes(n: int, width: int, generator: torch.Generator) -> Tensor:
    """`(n, width)` uint8, drawn eight at a time."""
    words = torch.empty(-(-n * width // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[: n * width].view(n, width)
