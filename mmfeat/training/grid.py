"""The grid of a sweep: options with several values become cells, whose settings are checked like those of mmfeat.toml."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown, toml_value
from mmfeat.config.schema import FILE_NAME, FINETUNE_KEYS, FinetuneConfig, FuseConfig
from mmfeat.heads import head_config
from mmfeat.project.project import Project

_NOT_SWEPT = tuple(f.name for f in dataclasses.fields(FuseConfig))  # keys of `[fuse]` itself, and the heads' tables


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """Settings of one head or one encoder's fine-tuning.

    Attributes
    ----------
    name : str
        The head, or the encoder.
    project : Project
        The project with these settings.
    typed : dict of str to str
        Dotted key to value as it was typed, for the keys that are swept.
    values : dict of str to Any
        The same by the keys' last parts, as mmfeat.toml reads them.
    """

    name: str
    project: Project
    typed: dict[str, str]
    values: dict[str, Any]

    def words(self) -> list[str]:
        """Options of another command for the settings of this cell."""
        return [word for key, value in self.typed.items() for word in ("--set", f"{key}={value}")]

    def settings(self, fixed: dict[str, str]) -> list[str]:
        """Lines for mmfeat.toml with the settings of this cell and the `fixed` ones."""
        known = dict(self.project.config.dotted())
        own = dict(zip(self.typed, self.values.values(), strict=True))
        dotted = {key: known[key] for key in fixed if key in known and key != "device"} | own
        tables: dict[str, list[str]] = {}
        for key, value in dotted.items():
            table, _, last = key.rpartition(".")
            text = toml_value(value) if isinstance(value, str) else str(value).lower()
            tables.setdefault(table, []).append(f"{last} = {text}")
        return [line for table in sorted(tables) for line in [*([f"[{table}]"] if table else []), *tables[table]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The cells of a sweep.

    Attributes
    ----------
    project : Project
        The project with the settings that are not swept.
    fixed : dict of str to str
        The typed settings that are not swept.
    names : list of str
        The heads, or the encoder.
    notes : list of str
        A line for each key that some head does not have.
    """

    project: Project
    fixed: dict[str, str]
    names: list[str]
    cells: list[Cell]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """The swept keys of one head or encoder (dotted key to typed values), and the settings that all its cells share."""

    name: str
    texts: dict[str, list[str]]
    shared: dict[str, str]

    def identity(self, project: Project) -> Any:
        """Settings that are equal for equal cells, for instance if a value was typed twice."""
        config = project.config
        if "fuse.head" in self.shared:
            return head_config(self.name, config.fuse)
        return config.finetune_of(self.name), config.finetune.synonyms

    def cells(self, root: Path) -> list[Cell]:
        """Every combination of values, once."""
        cells, seen = [], []
        for texts in itertools.product(*self.texts.values()):
            typed = dict(zip(self.texts, texts, strict=True))
            project = Project(root, {**self.shared, **typed})
            if (same := self.identity(project)) in seen:
                continue
            seen.append(same)
            known = dict(project.config.dotted())
            values = {key.rpartition(".")[2]: known[key] for key in typed}
            cells.append(Cell(name=self.name, project=project, typed=typed, values=values))
        return cells


def head_grid(folder: Path | str, overrides: dict[str, str]) -> Grid:
    """The grid of `mmfeat sweep fuse`.

    Parameters
    ----------
    overrides : dict of str to str
        Dotted key to what was typed. `fuse.head`, `fuse.KEY` (a key of any head) and `fuse.HEAD.KEY` may have several
        values, separated by commas; all other keys have one, as in mmfeat.toml.

    Raises
    ------
    ConfigError
        No head has a key, or a value is empty or wrong for its key.
    """
    swept = {key: _texts(key, text) for key, text in overrides.items() if _is_of_heads(key)}
    fixed = {key: text for key, text in overrides.items() if key not in swept}
    project = Project(folder, {key: text for key, text in fixed.items() if key != "fuse.head"})
    typed = fixed.pop("fuse.head", None)
    heads = list(dict.fromkeys(_texts("fuse.head", typed) if typed is not None else [project.config.fuse.head]))
    for head in heads:  # an unknown head is refused before its keys are looked up
        Project(project.root, {**fixed, "fuse.head": head})
    axes = [_Axes(name=head, texts=_texts_of_head(head, swept), shared={**fixed, "fuse.head": head}) for head in heads]
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
    cells = [cell for head in axes for cell in head.cells(project.root)]
    return Grid(project=project, fixed=fixed, names=heads, cells=cells, notes=notes)


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


def encoder_grid(folder: Path | str, name: str, overrides: dict[str, str]) -> Grid:
    """The grid of `mmfeat sweep finetune`.

    Parameters
    ----------
    name : str
        The encoder.
    overrides : dict of str to str
        Dotted key to what was typed. `finetune.KEY` and `finetune.NAME.KEY` may have several values, separated by commas;
        all other keys have one, as in mmfeat.toml.

    Raises
    ------
    ConfigError
        There is no such encoder, or it cannot be fine-tuned; a key is not one of fine-tuning, or a value is empty or wrong
        for its key.
    """
    swept = {key: _texts(key, text) for key, text in overrides.items() if key.split(".")[0] == "finetune"}
    fixed = {key: text for key, text in overrides.items() if key not in swept}
    project = Project(folder, fixed)
    table = project.encoder_table(name)
    if not table.tunable:
        raise ConfigError(f"encoder.{name}: {shown(table.model)} has no network to fine-tune")
    texts = {_finetune_key(name, key): values for key, values in swept.items()}
    axes = _Axes(name=name, texts=texts, shared=fixed)
    return Grid(project=project, fixed=fixed, names=[name], cells=axes.cells(project.root))


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
