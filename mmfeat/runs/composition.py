"""A run as one network on embeddings: heads, linear probes of encoders, and ensembles of their logits.

A run is a tree: a head on some encoders, or an ensemble of linear probes and other runs. Each head and each probe is one
part, even if several branches use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.common.errors import RunError, one_line
from mmfeat.common.json_shapes import ANYTHING, Choice, Number, Several, Shape, misfit
from mmfeat.heads import build_head, head_settings
from mmfeat.heads.head import encoder_of
from mmfeat.runs.ensembles import shares_and_scale
from mmfeat.runs.run import Run

# A part's name, or {"members": [Tree], "weights": [float or [float]], "prior": [float], "bias": [float], if any}.
Tree = str | dict[str, Any]

_WIDTH = Number(int, low=1)
_OUTPUT: Shape = {"kind": Choice(("output",)), "encoder": str, "width": _WIDTH}
_HEAD: Shape = {
    "kind": Choice(("head",)),
    "head": str,
    "config": {str: ANYTHING},
    "widths": {str: _WIDTH},
    "seeds": _WIDTH,
    "?tokens": {str: {"number": _WIDTH, "shape": Several(2, _WIDTH)}},
    "?columns": [Number(int, low=0)],
}
DESCRIPTION: Shape = {"n_classes": _WIDTH, "parts": {str: (_OUTPUT, _HEAD)}, "tree": (str, {str: ANYTHING})}
_ENSEMBLE: Shape = {
    "members": [(str, {str: ANYTHING})],
    "weights": [(float, [float])],
    "prior": [float],
    "?bias": [float],
}


@dataclass(frozen=True)
class ReadTokens:
    """The setting `tokens` of an encoder, and the shape (T, d) of the stored tokens."""

    number: int
    shape: tuple[int, int]


class HeadPart(nn.Module):
    """The heads of a run's seeds and folds. The mean of their logits predicts.

    Parameters
    ----------
    head : str
        A head's name.
    config : dict
        Its settings, as in run.json.
    widths : dict of str to int
        D by encoder, in the order of the run's inputs.
    tokens : dict of str to ReadTokens, optional
        The stored tokens that it reads, by encoder.
    columns : sequence of int, optional
        `(K,)`: for each logit, the column of the heads' outputs; by default the same order.
    """

    def __init__(
        self,
        head: str,
        config: dict[str, Any],
        widths: dict[str, int],
        *,
        n_classes: int,
        n_seeds: int,
        tokens: dict[str, ReadTokens] | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        at = None if columns is None else torch.as_tensor(np.asarray(columns, dtype=np.int64))
        self.register_buffer("columns", at, persistent=False)  # part of the description, not a weight
        self.head, self.config, self.widths, self.tokens = head, config, dict(widths), dict(tokens or {})
        built, shapes = head_settings(head, config), {name: read.shape for name, read in self.tokens.items()}
        self.seeds = nn.ModuleList(build_head(head, widths, n_classes, built, tokens=shapes) for _ in range(n_seeds))

    def describe(self) -> dict[str, Any]:
        """The description that builds it again, as JSON values."""
        tokens = {name: {"number": read.number, "shape": list(read.shape)} for name, read in self.tokens.items()}
        return {
            "kind": "head",
            "head": self.head,
            "config": self.config,
            "widths": self.widths,
            "seeds": len(self.seeds),
            "tokens": tokens,
            **({} if self.columns is None else {"columns": self.columns.tolist()}),
        }

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `(B, K)`, and which rows have any of the modalities, `(B,)` bool."""
        logits = torch.stack([head(inputs, present) for head in self.seeds]).mean(0)
        logits = logits if self.columns is None else logits.index_select(1, self.columns)
        return logits, torch.stack([present[name] for name in self.widths]).any(0)


class ProbePart(nn.Module):
    """The linear probe of an encoder. For a row without the modality, the logits are the log odds of the training rows."""

    def __init__(self, encoder: str, width: int, n_classes: int) -> None:
        super().__init__()
        self.encoder, self.widths, self.tokens = encoder, {encoder: width}, {}
        self.linear = nn.Linear(width, n_classes)
        self.register_buffer("prior", torch.zeros(n_classes))

    def describe(self) -> dict[str, Any]:
        """The description that builds it again, as JSON values."""
        return {"kind": "output", "encoder": self.encoder, "width": self.widths[self.encoder]}

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `(B, K)`, and which rows have the modality, `(B,)` bool."""
        known = present[self.encoder]
        return torch.where(known[:, None], self.linear(inputs[self.encoder]), self.prior), known


Part = HeadPart | ProbePart


class Composition(nn.Module):
    """Parts, and the tree that combines their logits.

    Parameters
    ----------
    parts : dict of str to HeadPart or ProbePart
        Parts by name; parts outside of the tree serve :meth:`unimodal_prediction`.
    tree : str or dict
        A part's name, or an ensemble of trees, which :func:`mmfeat.runs.ensembles.combined` defines.
    """

    def __init__(self, parts: dict[str, Part], tree: Tree, n_classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({_module_name(name): part for name, part in parts.items()})
        self.tree, self.n_classes = tree, n_classes
        self.eval()

    @property
    def widths(self) -> dict[str, int]:
        """D of all encoders that a part reads."""
        return {name: width for part in self.parts.values() for name, width in part.widths.items()}

    @property
    def tokens(self) -> dict[str, ReadTokens]:
        """The stored tokens that a part reads, by encoder."""
        return {name: read for part in self.parts.values() for name, read in part.tokens.items()}

    def part(self, name: str) -> Part:
        """A part by its name."""
        return self.parts[_module_name(name)]

    def describe(self) -> dict[str, Any]:
        """The description for :func:`build_composition`, as JSON values."""
        parts = {name.removeprefix(_PREFIX): part.describe() for name, part in self.parts.items()}
        return {"n_classes": self.n_classes, "parts": parts, "tree": self.tree}

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `(B, K)` from embeddings `(B, D)` and presence `(B,)` by encoder, and which rows are known, `(B,)` bool.

        For the encoders in `tokens`, tokens `(B, T, d)` and their presence `(B, T)` are under the name `NAME/tokens`.
        """
        return self._joined(self.tree, inputs, present, {})

    def unimodal_prediction(self, name: str, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Logits `(B, K)` from one encoder: by its linear probe, otherwise by the whole model with all others missing."""
        own = dict(self.parts.items()).get(_module_name(name))
        if isinstance(own, ProbePart):
            return own(inputs, present)[0]
        only = {n: mask if encoder_of(n) == name else torch.zeros_like(mask) for n, mask in present.items()}
        return self(inputs, only)[0]

    def _joined(
        self, tree: Tree, inputs: dict[str, Tensor], present: dict[str, Tensor], done: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        if isinstance(tree, str):
            if tree not in done:
                done[tree] = self.part(tree)(inputs, present)
            return done[tree]
        logits, known = zip(*(self._joined(member, inputs, present, done) for member in tree["members"]), strict=True)
        is_known = torch.stack(known)  # (M, B)
        like = logits[0]

        def constant(values: Any) -> Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.float32), device=like.device)

        shares, scale = map(constant, shares_and_scale(tree["weights"]))  # (M, K) or (M, 1)
        shares = is_known[:, :, None] * shares[:, None, :]  # (M, B, K) or (M, B, 1)
        total = shares.sum(0)
        shares = shares / torch.where(total > 0, total, torch.ones_like(total))
        joined = (torch.stack(logits) * shares).sum(0) * scale + constant(tree.get("bias") or 0.0)  # (B, K)
        return torch.where(is_known.any(0)[:, None], joined, constant(tree["prior"])), is_known.any(0)


_PREFIX = "part-"  # torch forbids a submodule with the name of a method of its container


def _module_name(part: str) -> str:
    return _PREFIX + part


def build_composition(description: dict[str, Any]) -> Composition:
    """Build a composition with untrained weights from the result of :meth:`Composition.describe`.

    Raises
    ------
    ValueError, RunError
        The description is wrong.
    Exception
        Any exception, if a head cannot be built with its recorded settings.
    """
    if why := misfit(description, DESCRIPTION) or _tree_misfit(description):
        raise ValueError(why)
    n_classes, parts = description["n_classes"], {}
    for name, part in description["parts"].items():
        if part["kind"] == "output":
            parts[name] = ProbePart(part["encoder"], part["width"], n_classes)
        else:
            tokens = {n: ReadTokens(read["number"], tuple(read["shape"])) for n, read in part.get("tokens", {}).items()}
            parts[name] = HeadPart(
                part["head"],
                part["config"],
                part["widths"],
                n_classes=n_classes,
                n_seeds=part["seeds"],
                tokens=tokens,
                columns=part.get("columns"),
            )
    return Composition(parts, description["tree"], n_classes)


def _tree_misfit(description: dict[str, Any]) -> str:
    """Describe the first mismatch between a description's tree, columns, parts and classes; empty if all match."""
    n, parts = description["n_classes"], description["parts"]
    for name, part in parts.items():
        columns = part.get("columns")
        if columns is not None and sorted(columns) != list(range(n)):
            return f"parts.{name}.columns is not a permutation of {n} classes"

    def below(tree: Tree) -> str:
        if isinstance(tree, str):
            return "" if tree in parts else f"tree names {tree!r}, which is not a part"
        if why := misfit(tree, _ENSEMBLE, "tree"):
            return why
        by_class = [tree["prior"], tree.get("bias"), *tree["weights"]]
        if len(tree["weights"]) != len(tree["members"]) or not tree["members"]:
            return "tree has different numbers of weights and members"
        if any(isinstance(values, list) and len(values) != n for values in by_class):
            return f"tree has weights, a prior or a bias for another number of classes than {n}"
        return next(filter(None, map(below, tree["members"])), "")

    return below(description["tree"])


def empty_head_part(record: dict[str, Any], n_seeds: int, columns: Sequence[int] | None = None) -> HeadPart:
    """The heads of a run from its run.json, with untrained weights."""
    encoders = {name: record["encoders"][name] for name in record["inputs"]}
    widths = {name: encoder["width"] for name, encoder in encoders.items()}
    tokens = {n: ReadTokens(e["tokens"], tuple(e["token_shape"])) for n, e in encoders.items() if e.get("tokens")}
    return HeadPart(
        record["head"],
        record["head_config"],
        widths,
        n_classes=len(record["classes"]),
        n_seeds=n_seeds,
        tokens=tokens,
        columns=columns,
    )


def n_folds(record: dict[str, Any]) -> int:
    """Number of heads per seed of a run: its folds, or 1."""
    return max(1, record.get("folds", 0))


def head_part(run: Run, columns: Sequence[int] | None = None) -> HeadPart:
    """The heads of a run from its run.json and head.safetensors; `columns` as for :class:`HeadPart`.

    Raises
    ------
    RunError
        Its settings or tensors do not fit the heads.
    """
    record, state = run.record, run.state()
    try:
        part = empty_head_part(record, len(record["seeds"]) * n_folds(record), columns)
        for seed, head in enumerate(part.seeds):
            prefix = f"seed{seed}."
            head.load_state_dict({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})
    except Exception as error:  # settings of another version, or of an unsealed record, may raise anything
        why = f"run {run.name}: its record and its tensors do not fit the head {record['head']} of this version"
        raise RunError(f"{why}: {one_line(error)}. Make the run again") from None
    return part.eval()
