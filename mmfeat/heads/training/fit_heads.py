"""Fits heads: all arrays are on the device, batches are taken by index, and val decides when to stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.errors import RunError
from mmfeat.common.progress import Progress
from mmfeat.common.randomness import id_numbers, torch_seed
from mmfeat.common.text import counted
from mmfeat.config.schema import PredictConfig
from mmfeat.heads import build_head
from mmfeat.heads.head import TOKENS, Head, encoder_of
from mmfeat.heads.training.epochs import FittedHead, fit_stack
from mmfeat.heads.training.members import Member, plan_stacks
from mmfeat.heads.training.stack import NO_FOLD, Arrays

_BLOCK = 65536  # rows standardised at a time


@dataclass(frozen=True)
class FitData:
    """The arrays of a fit, on one device.

    Attributes
    ----------
    inputs : dict of str to Tensor
        Embeddings `(N, D)` float32 by encoder; tokens `(N, T, d)` under `NAME/tokens`, in float16 as in the store.
    present : dict of str to Tensor
        `(N,)` and `(N, T)` bool by the same names.
    labels : Tensor
        `(N, K)` int8, or float in [0, 1] for soft targets; -1 is unknown.
    numbers : np.ndarray
        `(N,)` uint64 from :func:`mmfeat.common.randomness.id_numbers`.
    train, val : np.ndarray
        Row numbers. The epoch is selected on val rows, which are never trained on.
    fold : np.ndarray or None
        `(N,)` int64, for members with a held-out fold.
    weights : Tensor or None
        `(N, K)` float32: weight of each label in the loss; None means 1.
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    numbers: np.ndarray
    train: np.ndarray
    val: np.ndarray
    fold: np.ndarray | None = None
    weights: Tensor | None = None

    @property
    def widths(self) -> dict[str, int]:
        """D by encoder."""
        return {name: tensor.shape[1] for name, tensor in self.inputs.items() if not name.endswith(TOKENS)}

    @property
    def tokens(self) -> dict[str, tuple[int, int]]:
        """T and d by encoder, of those with tokens."""
        return {encoder_of(key): tuple(x.shape[1:]) for key, x in self.inputs.items() if key.endswith(TOKENS)}

    def only(self, *keys: str) -> FitData:
        """The data with a selection of inputs; an encoder's name selects its embeddings but not its tokens."""
        inputs, present = ({key: values[key] for key in keys} for values in (self.inputs, self.present))
        return dataclasses.replace(self, inputs=inputs, present=present)


def fit_data(table: Any, names: list[str], device: torch.device, rows: np.ndarray | None = None) -> FitData:
    """Copy a FeatureTable's rows of some encoders to a device, with the tokens that the table holds.

    Raises
    ------
    RunError
        The rows do not fit into the device's memory.
    """
    table = table if rows is None else table.take(rows)
    try:
        inputs, present = table.to(device, names)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        remedy = "Lower the number of fuse.inputs" + ("" if device.type == "cpu" else ", or use: --device cpu")
        raise RunError(
            f"the embeddings of {counted(table.n_samples, 'row')} do not fit in memory of {device}. {remedy}"
        ) from None
    labels = torch.as_tensor(table.labels, device=device)
    return FitData(
        inputs=inputs,
        present=present,
        labels=labels,
        numbers=id_numbers(table.ids),
        train=table.rows("train"),
        val=table.rows("val"),
    )


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
        A head's name, as in :data:`mmfeat.heads.HEADS`.
    config : dataclass
        The head's settings from :mod:`mmfeat.config.schema`.
    metric : str
        The metric that selects the epoch. Without val rows the last epoch is kept.
    rule : PredictConfig, optional
        The decision rule for the labels that the metric scores; a tuned threshold counts as 0.5. By default
        `PredictConfig()`.
    seed : int
        Determines initial weights, order of rows and dropout; the order of the rows in `data` does not matter.

    Raises
    ------
    RunError
        The head does not accept these inputs, memory runs out, or the loss or the logits are not finite.
    """
    return fit_heads(name, data, [Member(config, seed)], metric=metric, rule=rule)[0]


def fit_heads(
    name: str,
    data: FitData,
    members: Sequence[Member],
    *,
    metric: str = "samples-f1",
    rule: PredictConfig | None = None,
    bar: Progress | None = None,
) -> list[FittedHead]:
    """Train many heads of one name, with heads of the same shape in one vectorised pass; returns them in members' order.

    Up to rounding, a head equals one that is trained by itself: its rows, dropout and weights depend only on its own seed.

    Parameters
    ----------
    bar : Progress, optional
        Advanced by one for each epoch of each head, including epochs after early stopping.

    Raises
    ------
    RunError
        As :func:`fit_head`, for the first head that fails.
    """
    fitted: list[FittedHead | None] = [None] * len(members)
    for at, fits in fit_stacks(name, data, members, metric=metric, rule=rule, bar=bar):
        for i, fit in zip(at, fits, strict=True):
            if fit.error:
                raise RunError(diverged(name, members[i].config, fit.error))
            fitted[i] = fit
    return fitted


def fit_stacks(
    name: str,
    data: FitData,
    members: Sequence[Member],
    *,
    metric: str = "samples-f1",
    rule: PredictConfig | None = None,
    bar: Progress | None = None,
    choose_by: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[tuple[list[int], list[FittedHead]]]:
    """Like :func:`fit_heads`, but yields members' numbers and heads after each pass.

    Parameters
    ----------
    choose_by : callable, optional
        Maps the metrics of a pass's heads on their own val rows `(M,)` to the values that select their epochs.

    Raises
    ------
    RunError
        Memory runs out, or the head does not accept these inputs. A head whose loss is not finite is returned with an
        `error` instead.
    """
    for scaled in (True, False):  # the arrays of a pass are standardised for all its heads, or for none
        numbers = [i for i, member in enumerate(members) if member.config.standardise is scaled]
        if numbers:
            some = [members[i] for i in numbers]
            for at, fits in _fit_alike(
                name, data, some, metric=metric, rule=rule or PredictConfig(), bar=bar, choose_by=choose_by
            ):
                yield [numbers[i] for i in at], fits


def _fit_alike(
    name: str,
    data: FitData,
    members: Sequence[Member],
    *,
    metric: str,
    rule: PredictConfig,
    bar: Progress | None,
    choose_by: Callable[[np.ndarray], np.ndarray] | None,
) -> Iterator[tuple[list[int], list[FittedHead]]]:
    """:func:`fit_stacks` for heads that all read standardised embeddings, or all read them as they are."""
    members = _with_rows(members, data)
    readers = {tuple(_built("meta", name, data, config=member.config).reads): member.config for member in members}
    data = data.only(*(key for key in data.inputs if any(key in reads for reads in readers)))
    standardised, arrays = _standardised(name, data, members, list(readers.values()))
    planned = plan_stacks(
        members,
        data.labels.device,
        lambda config: n_parameters(name, data, config),
        lambda config, n: (config.batch_size or usual_batch(n)) * sum(x[0].numel() for x in data.inputs.values()),
    )
    for stack in planned:
        config, size = stack.config, stack.config.batch_size or usual_batch(len(stack.streams[0].train))
        heads = [_built(data.labels.device, name, data, config=config, seed=stream.seed) for stream in stack.streams]
        for head in heads:
            head.load_state_dict(standardised, strict=False)
        try:
            fitted = fit_stack(
                heads, arrays, stack, batch_size=size, metric=metric, rule=rule, bar=bar, choose_by=choose_by
            )
            yield stack.members, fitted
        except (RuntimeError, MemoryError) as error:
            if _out_of_memory(error):
                raise RunError(f"{name}: out of memory. Lower fuse.{name}.batch_size ({size} now)") from None
            if "overflow" in str(error):  # torch's error if the step size is out of the dtype's range
                raise RunError(diverged(name, config, "its step is too large for float32")) from None
            raise


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: on a GPU, in Python, or in torch's CPU allocator, which has no exception class."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def diverged(name: str, config: Any, what: str) -> str:
    """The message about a head whose loss or logits are not finite."""
    return f"{name}: {what}. Lower fuse.{name}.lr ({config.lr:g} now)"


def n_parameters(name: str, data: FitData, config: Any) -> int:
    """The number of parameters of a head on these inputs."""
    return sum(p.numel() for p in _built("meta", name, data, config=config).parameters())


def usual_batch(n_rows: int, most: int = 256) -> int:
    """The default batch size: about 30 batches per epoch, within 32 and `most`."""
    return min(most, max(32, n_rows // 30))


def _built(device: torch.device | str, name: str, data: FitData, *, config: Any, seed: int = 0) -> Head:
    """A new head; its initial weights depend on the seed, not on the device."""
    with torch.device("meta" if device == "meta" else "cpu"):
        torch.manual_seed(torch_seed(seed, 0))
        head = build_head(name, data.widths, data.labels.shape[1], config, tokens=data.tokens)
    return head if device == "meta" else head.to(device)


def _with_rows(members: Sequence[Member], data: FitData) -> list[Member]:
    """Members with their rows filled in, in the order of the ids' numbers, so that sums are the same to the last bit."""
    ordered: dict[int, np.ndarray] = {}  # by array identity: members that share rows share the result

    def rows(given: np.ndarray) -> np.ndarray:
        if id(given) not in ordered:
            ordered[id(given)] = given[np.argsort(data.numbers[given], kind="stable")]
        return ordered[id(given)]

    return [
        dataclasses.replace(
            m, train=rows(data.train if m.train is None else m.train), val=rows(data.val if m.val is None else m.val)
        )
        for m in members
    ]


@torch.no_grad()
def _standardised(
    name: str, data: FitData, members: Sequence[Member], readers: list[Any]
) -> tuple[dict[str, Tensor], Arrays]:
    """Mean and scale over all members' training rows (this reads no labels), and the standardised arrays.

    Heads that start from the weights of others keep the mean and scale that these weights were fitted with.
    """
    train = [member.train for member in {id(m.train): m for m in members}.values()]
    rows = train[0] if len(train) == 1 else np.unique(np.concatenate(train))
    rows = torch.as_tensor(rows[np.argsort(data.numbers[rows], kind="stable")], device=data.labels.device)
    x, moments = {}, {}
    for config in readers:  # heads of one name differ in the tokens that they read
        head = _built(data.labels.device, name, data, config=config)
        if members[0].start is None:
            head.fit_standardisation(data.inputs, data.present, rows)
        else:
            head.load_state_dict(members[0].start)
        moments |= dict(head.named_buffers())
        x |= {key: _all_standardised(head, key, data) for key in head.reads if key not in x}
    fold = None
    if data.fold is not None and any(member.fold != NO_FOLD for member in members):
        fold = torch.as_tensor(data.fold, device=data.labels.device)
    return moments, Arrays(
        x=x, present=data.present, labels=data.labels, numbers=data.numbers, fold=fold, weights=data.weights
    )


def _all_standardised(head: Head, key: str, data: FitData) -> Tensor:
    """One input of all rows, standardised in its own dtype: tokens stay float16."""
    values = torch.empty_like(data.inputs[key])
    step = max(1, _BLOCK // (values.shape[1] if key.endswith(TOKENS) else 1))
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        values[block] = head.standardised(key, {key: data.inputs[key][block]}, {key: data.present[key][block]})
    return values
