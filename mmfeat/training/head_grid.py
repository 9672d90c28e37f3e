"""From the options of a sweep to its cells: each a head's name and settings, checked like those of mmfeat.toml."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown
from mmfeat.config.schema import FuseConfig
from mmfeat.heads import head_config
from mmfeat.project.project import Project

_NOT_SWEPT = tuple(f.name for f in dataclasses.fields(FuseConfig))  # `[fuse]`'s own keys, and the heads' tables


@dataclass(frozen=True)
class Cell:
    """One head's name and settings.

    Attributes
    ----------
    project : Project
        The project with these settings.
    typed : dict of str to str
        Key to value as it was typed, for the keys that are swept.
    """

    head: str
    project: Project
    typed: dict[str, str]

    @property
    def values(self) -> dict[str, Any]:
        """The swept keys' values."""
        settings = head_config(self.head, self.project.config.fuse)
        return {key: getattr(settings, key) for key in self.typed}


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep.

    Attributes
    ----------
    project : Project
        With the settings that are not swept.
    fixed : dict of str to str
        Those of them that were typed.
    notes : list of str
        Keys that some head does not have, a line each.
    """

    project: Project
    fixed: dict[str, str]
    heads: list[str]
    cells: list[Cell]
    notes: list[str]


def grid_of(folder: Path | str, overrides: dict[str, str]) -> Grid:
    """Read the options of a sweep.

    Parameters
    ----------
    overrides : dict of str to str
        Dotted key to what was typed. Of `fuse.head`, `fuse.KEY` (a key of any head) and `fuse.HEAD.KEY` several values may
        stand, separated by commas; all others are as in mmfeat.toml.

    Raises
    ------
    ConfigError
        A key is of no head, a value is not one of its key's, or empty.
    """
    swept = {key: texts_of(key, text) for key, text in overrides.items() if _is_swept(key)}
    fixed = {key: text for key, text in overrides.items() if key not in swept}
    project = Project(folder, {key: text for key, text in fixed.items() if key != "fuse.head"})
    typed = fixed.pop("fuse.head", None)
    heads = list(dict.fromkeys(texts_of("fuse.head", typed) if typed is not None else [project.config.fuse.head]))
    for head in heads:  # an unknown one is refused before its keys are looked for
        Project(project.root, {**fixed, "fuse.head": head})
    axes, notes = {head: _axes(head, heads, swept) for head in heads}, []
    for key in swept:
        _, *table, name = key.split(".")
        wanted = table or heads
        having = [head for head in wanted if head in heads and name in axes[head]]
        if not having:
            raise ConfigError(_nobody(key, name, wanted, heads))
        if lacking := [head for head in wanted if head not in having]:
            notes.append(f"{', '.join(lacking)} has no {shown(name)}: it is swept for {', '.join(having)} alone")
    cells, seen = [], set()
    for head in heads:
        for values in itertools.product(*axes[head].values()):
            typed_here = dict(zip(axes[head], values, strict=True))
            own = {f"fuse.{head}.{key}": text for key, text in typed_here.items()}
            cell = Cell(head, Project(project.root, {**fixed, "fuse.head": head, **own}), typed_here)
            same = (head, dataclasses.astuple(head_config(head, cell.project.config.fuse)))
            if same not in seen:  # a value that was typed twice
                seen.add(same)
                cells.append(cell)
    return Grid(project, fixed, heads, cells, notes)


def _is_swept(key: str) -> bool:
    first, *rest = key.split(".")
    return first == "fuse" and (len(rest) == 2 or (len(rest) == 1 and rest[0] not in _NOT_SWEPT))


def texts_of(key: str, text: str) -> list[str]:
    """The values that stand, separated by commas, in what was typed for a key."""
    texts = [part.strip() for part in text.split(",")]
    if not all(texts):
        raise ConfigError(f"option {shown(key)}: a value is empty. Write values separated by commas, as in 3e-4,1e-3")
    return texts


def _axes(head: str, heads: list[str], swept: dict[str, list[str]]) -> dict[str, list[str]]:
    """Of one head the keys that are swept, and their values; what names the head is stronger."""
    has = _keys_of(head)
    axes = {}
    for key, texts in sorted(swept.items(), key=lambda item: item[0].count(".")):
        _, *table, name = key.split(".")
        if name in has and table in ([], [head]):
            axes[name] = texts
    return axes


def _keys_of(head: str) -> list[str]:
    return [f.name for f in dataclasses.fields(head_config(head, FuseConfig()))]


def _nobody(key: str, name: str, wanted: list[str], heads: list[str]) -> str:
    """What to say of a key that no head of the sweep has."""
    absent = [head for head in wanted if head not in heads]
    if absent:
        return f"option {shown(key)}: {shown(absent[0])} is not among the heads {', '.join(heads)}. Use: --head {shown(absent[0])}"
    known = list(dict.fromkeys(k for head in wanted for k in _keys_of(head)))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    which = f"Nearest: {close[0]}" if close else f"Known here: {', '.join(known)}"
    return f"option {shown(key)}: no head of {', '.join(wanted)} has '{shown(name)}'. {which}"
