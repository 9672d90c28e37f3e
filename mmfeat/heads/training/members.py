"""Groups the heads of a fit into vectorised passes: heads of one shape form grids of streams and variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.heads.training.stack import NO_FOLD, Stream, Variant

_MOST_PARAMETERS = {"cpu": 2**24, "cuda": 2**28}  # of one pass, which needs five copies of each
_MOST_INPUTS = {"cpu": 2**24, "cuda": 2**28}  # input values in one batch of all streams
_BY_VARIANT = ("lr", "weight_decay")


@dataclass(frozen=True, eq=False)
class Member:
    """One of several heads that are fitted together.

    Attributes
    ----------
    config : dataclass
        The head's settings from :mod:`mmfeat.config.schema`.
    train, val : np.ndarray or None
        Row numbers; None for those of the data.
    fold : int
        Held-out fold: excluded from the loss; the only rows that the head is evaluated on. -1 for none. Heads that differ
        only in the fold share their batches.
    company : hashable
        Members with the same company are trained in one pass, without other members.
    start : mapping of str to Tensor, optional
        The tensors of a trained head of this shape. The fit starts between them and new weights, and keeps their mean and
        scale of the standardisation. If one member of a fit has a start, all have one, with the same mean and scale.
    """

    config: Any
    seed: int = 0
    train: np.ndarray | None = None
    val: np.ndarray | None = None
    fold: int = NO_FOLD
    company: Any = None
    start: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class PlannedStack:
    """Heads that are trained in one pass.

    Attributes
    ----------
    config : Any
        The settings of one of the heads; only settings that all heads share are read.
    places : list of (int, int, int)
        Each member's number, stream and variant.
    """

    config: Any
    streams: list[Stream]
    variants: list[Variant]
    places: list[tuple[int, int, int]]

    @property
    def members(self) -> list[int]:
        """The members' numbers, in the order of `places`."""
        return [place[0] for place in self.places]


def rates_of(config: Any) -> dict[str, float]:
    """The dropout rates among a head's settings, by name."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name.endswith("dropout")}


def plan_stacks(
    members: Sequence[Member], device: torch.device, parameters: Callable[[Any], int], inputs: Callable[[Any, int], int]
) -> list[PlannedStack]:
    """Group heads into as few passes as memory allows; members of one company are always in one pass.

    Parameters
    ----------
    members : sequence of Member
        The heads; `train` and `val` must be set.
    parameters : callable
        Maps settings to the number of a head's parameters.
    inputs : callable
        Maps settings and number of training rows to the number of values in one batch.
    """
    shapes: dict[Any, dict[Any, dict[Variant, list[int]]]] = {}
    streams: dict[Any, Stream] = {}
    for number, member in enumerate(members):
        rates, config = rates_of(member.config), dataclasses.asdict(member.config)
        variant = Variant(*(config[name] for name in _BY_VARIANT), member.fold)
        shared = [item for item in config.items() if item[0] not in (*_BY_VARIANT, *rates)]
        rest = (member.company, *shared)
        key = (member.seed, id(member.train), id(member.val), id(member.start), *rates.values())
        streams[key] = Stream(member.seed, member.train, member.val, rates, member.start)
        shapes.setdefault(rest, {}).setdefault(key, {}).setdefault(variant, []).append(number)
    planned = []
    for (company, *_), shape in shapes.items():
        rectangles: dict[tuple[Variant, ...], list[Any]] = {}
        for key, variants in shape.items():
            rectangles.setdefault(tuple(variants), []).append(key)
        for variants, keys in rectangles.items():
            config = members[shape[keys[0]][variants[0]][0]].config
            most = max(1, _MOST_PARAMETERS[_kind(device)] // parameters(config))
            alone = company is None
            wide = min(len(variants), most) if alone else len(variants)
            batch = inputs(config, len(streams[keys[0]].train))
            high = max(1, min(most // wide, _MOST_INPUTS[_kind(device)] // batch)) if alone else len(keys)
            for some in _pieces(variants, wide):
                for rows in _pieces(keys, high):
                    places = [
                        (number, s, v)
                        for s, key in enumerate(rows)
                        for v, one in enumerate(some)
                        for number in shape[key][one]
                    ]
                    planned.append(PlannedStack(config, [streams[key] for key in rows], list(some), places))
    return planned


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "cuda"


def _pieces(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """As few pieces of at most `size` as possible, of nearly equal length."""
    return [items[part[0] : part[-1] + 1] for part in np.array_split(np.arange(len(items)), -(-len(items) // size))]
