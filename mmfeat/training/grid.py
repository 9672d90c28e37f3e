"""The grid of a sweep: options with several values, or a list, become cells, whose settings are checked like mmfeat.toml."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown
from mmfeat.config.schema import FILE_NAME, FINETUNE_KEYS, FinetuneConfig, FuseConfig
from mmfeat.heads import head_config
from mmfeat.project.project import Project
from mmfeat.training.grid_cells import Grid

_NOT_SWEPT = tuple(f.name for f in dataclasses.fields(FuseConfig))  # keys of `[fuse]` itself, and the heads' tables


def head_grid(
    folder: Path | str, overrides: dict[str, str], listed: Sequence[dict[str, str]] = (), *, bare: bool = True
) -> Grid:
    """The grid of `mmfeat sweep fuse`.

    Parameters
    ----------
    overrides : dict of str to str
        Dotted key to what was typed. `fuse.head`, `fuse.KEY` (a key of any head) and `fuse.HEAD.KEY` may have several
        values, separated by commas; all other keys have one, as in mmfeat.toml.
    listed : sequence of dict of str to str
        Cells: `head` and keys of a head to the text of a value. Each is combined with all values of `overrides`.
    bare : bool
        Whether there is a cell of each head if nothing is swept.

    Raises
    ------
    ConfigError
        No head has a key, or a value is empty or wrong for its key.
    """
    swept = {key: _texts(key, text) for key, text in overrides.items() if _is_of_heads(key)}
    fixed = {key: text for key, text in overrides.items() if key not in swept}
    project = Project(folder, {key: text for key, text in fixed.items() if key != "fuse.head"})
    heads = _heads(project, fixed.pop("fuse.head", None), listed)
    for head in heads:  # an unknown head is refused before its keys are looked up
        Project(project.root, {**fixed, "fuse.head": head})
    axes = [_Axes(name=head, texts=_texts_of_head(head, swept), listed=_listed_of_head(head, listed)) for head in heads]
    notes = []
    for key in swept:
        _, *table, name = key.split(".")
        wanted = table or heads
        having = [head.name for head in axes if head.name in wanted and f"fuse.{head.name}.{name}" in head.texts]
        if not having:
            raise ConfigError(_no_head_has(key, name, wanted, heads))
        if lacking := [head for head in wanted if head not in having]:
            have = "has" if len(lacking) == 1 else "have"
            notes.append(f"{', '.join(lacking)} {have} no {shown(name)}: it is swept only for {', '.join(having)}")
    grid = Grid(project=project, fixed=fixed, names=heads, cells=[], stage="fuse", notes=notes)
    return _filled(grid, axes if bare or swept or listed else [])


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """The swept keys of one head or encoder: dotted key to typed values, and listed cells by dotted keys."""

    name: str
    texts: dict[str, list[str]]
    listed: list[dict[str, str]]

    def typed(self) -> list[dict[str, str]]:
        """Every combination of values with every listed cell."""
        for key in (key for cell in self.listed for key in cell):
            if key in self.texts:
                raise ConfigError(f"{shown(key)} is in a cell and in an option. Leave one of them out")
        every = [dict(zip(self.texts, texts, strict=True)) for texts in itertools.product(*self.texts.values())]
        return [combined | cell for cell in self.listed or [{}] for combined in every]


def _filled(grid: Grid, axes: Sequence[_Axes]) -> Grid:
    """The grid with the cells of its axes, each once."""
    seen: list[Any] = []
    return grid.of([cell for one in axes for cell in grid.distinct(one.name, one.typed(), seen)])


def _heads(project: Project, typed: str | None, listed: Sequence[dict[str, str]]) -> list[str]:
    """The heads of a sweep: those that were typed, and those of listed cells; the project's, if there are none."""
    own = [cell["head"] for cell in listed if "head" in cell]
    if typed is not None:
        own = [*_texts("fuse.head", typed), *own]
    elif len(own) < len(listed) or not listed:
        own = [project.config.fuse.head, *own]
    return list(dict.fromkeys(own))


def _listed_of_head(head: str, listed: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The listed cells of a head by dotted keys."""
    found = []
    for cell in listed:
        if cell.get("head", head) != head:
            continue
        keys = [key.rpartition(".")[2] for key in cell]
        for key, name in zip(cell, keys, strict=True):
            if name != "head" and (name not in _keys_of_head(head) or key not in (name, f"fuse.{head}.{name}")):
                raise ConfigError(_no_head_has(key, name, [head], [head]))
        found.append({f"fuse.{head}.{n}": text for n, text in zip(keys, cell.values(), strict=True) if n != "head"})
    return found


def _is_of_heads(key: str) -> bool:
    first, *rest = key.split(".")
    return first == "fuse" and (len(rest) == 2 or (len(rest) == 1 and rest[0] not in _NOT_SWEPT))


def _texts_of_head(head: str, swept: dict[str, list[str]]) -> dict[str, list[str]]:
    """The swept keys that a head has; `fuse.HEAD.KEY` takes precedence over `fuse.KEY`."""
    texts = {}
    for key, values in sorted(swept.items(), key=lambda item: item[0].count(".")):
        _, *table, name = key.split(".")
        if name in _keys_of_head(head) and table in ([], [head]):
            texts[f"fuse.{head}.{name}"] = values
    return texts


def _keys_of_head(head: str) -> list[str]:
    return [f.name for f in dataclasses.fields(head_config(head, FuseConfig()))]


def _no_head_has(key: str, name: str, wanted: list[str], heads: list[str]) -> str:
    absent = [head for head in wanted if head not in heads]
    if absent:
        return f"option {shown(key)}: {shown(absent[0])} is not among the heads {', '.join(heads)}. Use: --head {shown(absent[0])}"
    known = list(dict.fromkeys(k for head in wanted for k in _keys_of_head(head)))
    return f"option {shown(key)}: no head of {', '.join(wanted)} has '{shown(name)}'. {_nearest(name, known)}"


def encoder_grid(
    folder: Path | str,
    name: str,
    overrides: dict[str, str],
    listed: Sequence[dict[str, str]] = (),
    *,
    bare: bool = True,
    dry: bool = False,
) -> Grid:
    """The grid of `mmfeat sweep finetune`.

    Parameters
    ----------
    name : str
        The encoder.
    overrides : dict of str to str
        Dotted key to what was typed. `finetune.KEY` and `finetune.NAME.KEY` may have several values, separated by commas;
        all other keys have one, as in mmfeat.toml.
    listed : sequence of dict of str to str
        Cells: keys of fine-tuning to the text of a value. Each is combined with all values of `overrides`.
    bare : bool
        Whether there is a cell if nothing is swept.
    dry : bool
        Whether nothing may be written.

    Raises
    ------
    ConfigError
        There is no such encoder, or it cannot be fine-tuned; a key is not one of fine-tuning, or a value is empty or wrong
        for its key.
    """
    swept = {key: _texts(key, text) for key, text in overrides.items() if key.split(".")[0] == "finetune"}
    fixed = {key: text for key, text in overrides.items() if key not in swept}
    project = Project(folder, fixed, dry)
    table = project.encoder_table(name)
    if not table.tunable:
        raise ConfigError(f"encoder.{name}: {shown(table.model)} has no network to fine-tune")
    texts = {_finetune_key(name, key): values for key, values in swept.items()}
    cells = [
        {_finetune_key(name, f"finetune.{key.removeprefix('finetune.')}"): text for key, text in cell.items()}
        for cell in listed
    ]
    grid = Grid(project=project, fixed=fixed, names=[name], cells=[], stage="finetune")
    return _filled(grid, [_Axes(name=name, texts=texts, listed=cells)] if bare or texts or cells else [])


def _finetune_key(name: str, typed: str) -> str:
    """The dotted key of mmfeat.toml for a swept key, in any of its typed forms."""
    keys = [f.name for f in dataclasses.fields(FinetuneConfig)]
    rest = typed.split(".")[1:]
    if len(rest) == 2 and rest[0] != name:
        raise ConfigError(
            f"option {shown(typed)}: the sweep fine-tunes {name}. Write: finetune.{name}.{shown(rest[1])}"
        )
    if len(rest) == 1 and rest[0] in FINETUNE_KEYS:
        return f"finetune.{rest[0]}"
    if len(rest) in (1, 2) and rest[-1] in keys:
        return f"finetune.{name}.{rest[-1]}"
    which = _nearest(rest[-1], keys, [*FINETUNE_KEYS, *keys])
    raise ConfigError(f"option {shown(typed)}: no key of [finetune.{name}] in {FILE_NAME}. {which}")


def _nearest(name: str, keys: list[str], known: list[str] | None = None) -> str:
    close = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
    return f"Nearest: {close[0]}" if close else f"Known here: {', '.join(known or keys)}"


def _texts(key: str, text: str) -> list[str]:
    """The values, separated by commas, that were typed for a key."""
    texts = [part.strip() for part in text.split(",")]
    if not all(texts):
        raise ConfigError(f"option {shown(key)}: a value is empty. Write values separated by commas, as in 3e-4,1e-3")
    return texts
