"""Cuts image networks between two stages, whatever their family.

Stages are found in the network itself: the list of modules, or the modules numbered alike (`layer1` to `layer4`), that hold
most of its parameters. Both parts are the network's own forward pass: before the cut with what comes later left out, after
the cut with given activations in place of what comes before. A network that does not work so is refused, because both parts
are compared with the whole.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.encoders.cut import ACTIVATIONS, Cut, check_stages, part_of, uncuttable

if TYPE_CHECKING:
    from mmfeat.encoders.families.image_network import ImageEncoder

_NUMBERED = re.compile(r"(.*?)\d+[a-z]?")  # layer1, s2, stage3, inception4a
_DEEPEST = 2  # modules around a list of stages


class _Skipped(nn.Module):
    """In place of a module of the other part."""

    def forward(self, x: Any, *_args: Any, **_kwargs: Any) -> Any:
        """Its input."""
        return x


class _Kept(_Skipped):
    """In place of the first stage after the cut: keeps its input."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def forward(self, x: Any, *_args: Any, **_kwargs: Any) -> Any:
        """A copy of its input, which the rest of the network may change in place."""
        self.values.append(x)
        return x.clone()


class _Given(nn.Module):
    """The first stage after the cut, applied to given activations instead of its input."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage, self.values = stage, None

    def forward(self, _x: Any, *args: Any, **kwargs: Any) -> Any:
        """The stage's output."""
        return self.stage(self.values, *args, **kwargs)


class _Before(nn.Module):
    """A network up to the input of a stage."""

    def __init__(self, network: nn.Module, kept: _Kept) -> None:
        super().__init__()
        self.network, self.kept = network, kept

    def forward(self, pixels: Tensor) -> Tensor:
        """The activations of normalised pixels."""
        self.kept.values.clear()
        self.network(pixels)
        return self.kept.values.pop()


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCut(Cut):
    """An image network, cut between two stages. Activations are `(B, h, w, C)`, or `(B, L, C)` for tokens.

    Attributes
    ----------
    after : nn.Module
        The network with `given` in place of the first stage after the cut.
    """

    encoder: ImageEncoder
    after: nn.Module
    given: _Given

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """`(h, w, C)` or `(L, C)`."""
        with torch.inference_mode():
            found = self.front({"pixels": torch.zeros_like(self._blank, dtype=torch.uint8)})
        return tuple(found[ACTIVATIONS].shape[1:])

    @property
    def _blank(self) -> Tensor:
        """One image for the modules before the cut, whose output is replaced."""
        return torch.zeros(1, *self.encoder.preparation.data_config["input_size"], device=self.encoder.mean.device)

    def front(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Activations of images."""
        values = self.before(self.encoder._normalised(batch["pixels"]))
        return {ACTIVATIONS: values.permute(0, 2, 3, 1) if values.ndim == 4 else values}  # channels are last in memory

    def tail(self, inputs: dict[str, Tensor]) -> Tensor:
        """The stages after the cut, and the network's head."""
        with self._applied_to(inputs):
            return self.after(self._blank)

    def tail_tokens(self, inputs: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """As the whole encoder, from the last features before pooling."""
        last = part_of(self.encoder, {"network": self.after})
        with self._applied_to(inputs):
            embeddings, grid = last.forward_grid(self._blank)
        return embeddings, *self.encoder.grid_tokens(grid, number)

    @contextlib.contextmanager
    def _applied_to(self, inputs: dict[str, Tensor]) -> Iterator[None]:
        """The tail computes with these activations during the block."""
        values = inputs[ACTIVATIONS].float()
        self.given.values = values.permute(0, 3, 1, 2) if values.ndim == 4 else values
        try:
            yield
        finally:
            self.given.values = None

    def gathered(self, rows: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """A batch of stored activations, flattened as they are stored."""
        return {
            name: torch.from_numpy(np.stack([row[name] for row in rows])).view(len(rows), *self.shape)
            for name in rows[0]
        }


def cut_image(encoder: ImageEncoder, trained: int) -> ImageCut:
    """Cut before the last `trained` stages; all modules that run after the cut belong to the tail.

    Raises
    ------
    EncoderError
        The network's stages are not known, or there are fewer.
    """
    encoder.eval()
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, *encoder.preparation.data_config["input_size"]), generator=noise)
    batch = {"pixels": pixels.to(device=encoder.mean.device, dtype=torch.uint8)}
    with torch.inference_mode():
        inputs, whole = _watched(encoder.network, encoder._normalised(batch["pixels"]))
    stages, order = _stages(encoder.network, inputs), list(inputs)
    if not stages:
        raise uncuttable(encoder)
    check_stages(encoder, trained, len(stages), "stages")
    first = stages[-trained]
    begin, at = order.index(stages[0]), order.index(first)
    earlier, later = _outermost(order[begin:at]), _outermost(order[at:])
    kept, given = _Kept(), _Given(encoder.network.get_submodule(first))
    cut = ImageCut(
        encoder=encoder,
        n_stages=len(stages),
        trained=trained,
        modules={f"network.{path}": encoder.network.get_submodule(path) for path in later},
        before=_Before(part_of(encoder.network, {**{path: _Skipped() for path in later}, first: kept}), kept),
        after=part_of(encoder.network, {**{path: _Skipped() for path in earlier}, first: given}),
        given=given,
    )
    try:
        cut.check(batch, whole)
    except Exception:  # networks raise various errors
        raise uncuttable(encoder) from None
    return cut


def _watched(network: nn.Module, pixels: Tensor) -> tuple[dict[str, int], Tensor]:
    """The dimensions of the first input of all modules by path, in the order of their first calls, and the network's output."""
    dimensions: dict[str, int] = {}

    def note(path: str, inputs: tuple[Any, ...]) -> None:
        dimensions.setdefault(path, getattr(inputs[0], "ndim", 0) if inputs else 0)

    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: note(path, inputs))
        for path, module in network.named_modules()
        if path
    ]
    try:
        output = network(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return dimensions, output


def _outermost(paths: list[str]) -> list[str]:
    """Those that are not within another one."""
    known = set(paths)
    return [path for path in paths if not known & set(_around(path))]


def _around(path: str) -> Iterator[str]:
    """The paths of the modules around a module."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _stages(network: nn.Module, dimensions: dict[str, int]) -> list[str]:
    """The paths of a network's stages in the order of their calls; empty if it has none.

    A single layer between stages (a stride, a transition) begins the next one, and one after all stages belongs to the last.
    Without stages of several layers, those of the longest list of layers are stages.

    Parameters
    ----------
    dimensions : dict of str to int
        The result of `_watched`: stages read tokens (3) or maps (4), layers of a classifier pooled features.
    """
    places = {path: at for at, path in enumerate(dimensions)}
    groups = [[path for path in group if dimensions.get(path, 0) in (3, 4)] for group in _groups(network)]
    for counts, largest in ((_is_composed, _n_parameters), (_has_matrix, lambda network, path: 1)):
        found = [group for group in groups if sum(counts(network.get_submodule(path)) for path in group) > 1]
        if found:
            group = max(found, key=lambda group: sum(largest(network, path) for path in group))
            group = sorted(group, key=places.get)
            return _begins(group, [counts(network.get_submodule(path)) for path in group])
    return []


def _begins(group: list[str], is_stage: list[bool]) -> list[str]:
    """Where each stage of a group begins: with the entries between the stage before and itself."""
    begins, pending = [], ""
    for path, ends in list(zip(group, is_stage, strict=True))[is_stage.index(True) :]:
        pending = pending or path
        if ends:
            begins.append(pending)
            pending = ""
    return begins


def _groups(network: nn.Module) -> Iterator[list[str]]:
    """Groups of modules that may be stages, the outer ones first: the entries of lists, and modules numbered alike."""
    holders = [(path, module) for path, module in network.named_modules() if path.count(".") < _DEEPEST]
    for path, holder in sorted(holders, key=lambda one: one[0].count(".") + bool(one[0])):
        prefix = f"{path}." if path else ""
        names = [name for name, _ in holder.named_children()]
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            yield [prefix + name for name in names]
            continue
        alike: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if (found := _NUMBERED.fullmatch(name)) and found[1]:
                alike[found[1]].append(prefix + name)
        yield from alike.values()


def _n_parameters(network: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in network.get_submodule(path).parameters())


def _n_matrices(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _has_matrix(module: nn.Module) -> bool:
    return _n_matrices(module) > 0


def _is_composed(module: nn.Module) -> bool:
    """Whether a module is more than one layer with its norm and activation."""
    return _n_matrices(module) > 1 or any(True for child in module.children() for _ in child.children())
