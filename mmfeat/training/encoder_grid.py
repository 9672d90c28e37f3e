"""From the options of `mmfeat sweep finetune` to its cells: one encoder's settings, checked like those of mmfeat.toml."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown, toml_value
from mmfeat.config.schema import FILE_NAME, FINETUNE_KEYS, Config, FinetuneConfig
from mmfeat.project.project import Project
from mmfeat.training.head_grid import texts_of


@dataclass(frozen=True)
class FinetuneCell:
    """One encoder's settings.

    Attributes
    ----------
    config : Config
        The project's, with these settings.
    values : dict of str to Any
        Of the swept keys.
    """

    config: Config
    values: dict[str, Any]


@dataclass(frozen=True)
class FinetuneGrid:
    """The cells of a sweep over one encoder's fine-tuning.

    Attributes
    ----------
    project : Project
        With the settings that are not swept.
    fixed : dict of str to str
        Those of them that were typed.
    """

    name: str
    project: Project
    fixed: dict[str, str]
    cells: list[FinetuneCell]

    def dotted(self, key: str) -> str:
        """A swept key as mmfeat.toml has it."""
        return _dotted(self.name, key)

    def settings(self, cell: FinetuneCell) -> list[str]:
        """What to write into mmfeat.toml so that `mmfeat finetune` makes a cell, line by line."""
        dotted = {self.dotted(key): value for key, value in cell.values.items()}
        known = dict(cell.config.dotted())
        dotted = {key: known[key] for key in self.fixed if key in known and key != "device"} | dotted
        tables: dict[str, list[str]] = {}
        for key, value in dotted.items():
            table, _, last = key.rpartition(".")
            text = toml_value(value) if isinstance(value, str) else str(value).lower()
            tables.setdefault(table, []).append(f"{last} = {text}")
        return [line for table in sorted(tables) for line in [*([f"[{table}]"] if table else []), *tables[table]]]


def finetune_grid(folder: Path | str, name: str, overrides: dict[str, str]) -> FinetuneGrid:
    """Read the options of a sweep.

    Parameters
    ----------
    name : str
        The encoder.
    overrides : dict of str to str
        Dotted key to what was typed. Of `finetune.KEY` and `finetune.NAME.KEY` several values may stand, separated by
        commas; all others are as in mmfeat.toml.

    Raises
    ------
    ConfigError
        No such encoder, or none that can be fine-tuned; a key is none of fine-tuning's, a value is not one of its key's.
    """
    swept = {key: texts_of(key, text) for key, text in overrides.items() if key.split(".")[0] == "finetune"}
    fixed = {key: text for key, text in overrides.items() if key not in swept}
    project = Project(folder, fixed)
    table = project.encoder_table(name)
    if not table.tunable:
        raise ConfigError(f"encoder.{name}: {shown(table.model)} has no network to fine-tune")
    axes = {_key(name, key): texts for key, texts in swept.items()}
    cells, seen = [], []
    for texts in itertools.product(*axes.values()):
        own = {_dotted(name, key): text for key, text in zip(axes, texts, strict=True)}
        config = Project(project.root, {**fixed, **own}).config
        settings = config.finetune_of(name)
        same = (settings, config.finetune.synonyms)
        if same not in seen:  # a value that was typed twice
            seen.append(same)
            values = {key: getattr(config.finetune if key in FINETUNE_KEYS else settings, key) for key in axes}
            cells.append(FinetuneCell(config, values))
    return FinetuneGrid(name, project, fixed, cells)


def _dotted(name: str, key: str) -> str:
    return f"finetune.{key}" if key in FINETUNE_KEYS else f"finetune.{name}.{key}"


def _key(name: str, dotted: str) -> str:
    """The name of a swept key, however it was typed."""
    keys = [field.name for field in dataclasses.fields(FinetuneConfig)]
    rest = dotted.split(".")[1:]
    if len(rest) == 2 and rest[0] != name:
        raise ConfigError(f"option {shown(dotted)}: the sweep is of {name}. Write: finetune.{name}.{shown(rest[1])}")
    if len(rest) in (1, 2) and (rest[-1] in keys or (len(rest) == 1 and rest[0] in FINETUNE_KEYS)):
        return rest[-1]
    close = difflib.get_close_matches(rest[-1], keys, n=1, cutoff=0.5)
    which = f"Nearest: {close[0]}" if close else f"Known here: {', '.join([*FINETUNE_KEYS, *keys])}"
    raise ConfigError(f"option {shown(dotted)}: no key of [finetune.{name}] in {FILE_NAME}. {which}")
