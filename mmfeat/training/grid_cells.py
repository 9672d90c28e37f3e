"""The cells of a sweep: settings of one head or of one encoder's fine-tuning, each in a project that has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmfeat.common.text import toml_value
from mmfeat.heads import head_config
from mmfeat.project.project import Project

ADAMW_DECAY = 0.01  # of a swept AdamW whose settings have no weight decay: torch's default


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
        The values of all keys that any cell of this name has, by their last parts, as mmfeat.toml reads them.
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
        own = {key: known[key] for key in self.typed}
        dotted = {key: known[key] for key in fixed if key in known and key != "device"} | own
        tables: dict[str, list[str]] = {}
        for key, value in dotted.items():
            table, _, last = key.rpartition(".")
            tables.setdefault(table, []).append(f"{last} = {toml_value(value)}")
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
    stage : str
        The table whose settings are swept: `fuse` or `finetune`.
    notes : list of str
        A line for each key that some head does not have, and for optimizers that are the same.
    """

    project: Project
    fixed: dict[str, str]
    names: list[str]
    cells: list[Cell]
    stage: str
    notes: list[str] = field(default_factory=list)

    def of(self, cells: Sequence[Cell]) -> Grid:
        """The grid with other cells, each of which has the values of all keys."""
        keys: dict[str, dict[str, None]] = {}
        for cell in cells:
            keys.setdefault(cell.name, {}).update(dict.fromkeys(cell.typed))
        found = []
        for cell in cells:
            known = dict(cell.project.config.dotted())
            values = {key.rpartition(".")[2]: known[key] for key in keys[cell.name]}
            found.append(dataclasses.replace(cell, values=values))
        return dataclasses.replace(
            self, cells=found, notes=list(dict.fromkeys([*self.notes, *self._same_optimizers(found)]))
        )

    def shared(self, name: str) -> dict[str, str]:
        """The typed settings that all cells of a head or encoder share."""
        return {**self.fixed, "fuse.head": name} if self.stage == "fuse" else self.fixed

    def settings_of(self, name: str, project: Project) -> Any:
        """The settings of a head, or of an encoder's fine-tuning, in a project."""
        return head_config(name, project.config.fuse) if self.stage == "fuse" else project.config.finetune_of(name)

    def identity(self, name: str, project: Project) -> Any:
        """Settings that are equal for equal cells, for instance if a value was typed twice."""
        synonyms = "" if self.stage == "fuse" else project.config.finetune.synonyms
        return name, self.settings_of(name, project), synonyms

    def distinct(self, name: str, typed: Iterable[dict[str, str]], seen: list[Any]) -> list[Cell]:
        """The cells with these settings, each once; `seen` has the identities of those that exist, and gets theirs."""
        cells = []
        for texts in typed:
            texts = self._with_own_decay(name, texts)
            project = Project(self.project.root, {**self.shared(name), **texts}, self.project.dry)
            if (same := self.identity(name, project)) not in seen:
                seen.append(same)
                cells.append(Cell(name=name, project=project, typed=texts, values={}))
        return cells

    def _with_own_decay(self, name: str, typed: dict[str, str]) -> dict[str, str]:
        """The settings of a cell; a swept AdamW without weight decay, which would be Adam, gets torch's default."""
        table = f"{self.stage}.{name}"
        decay = f"{table}.weight_decay"
        if typed.get(f"{table}.optimizer") != "adamw" or decay in typed:
            return typed
        project = Project(self.project.root, {**self.shared(name), **typed}, self.project.dry)
        if decay in project.config.origins or self.settings_of(name, project).weight_decay:
            return typed
        return {**typed, decay: str(ADAMW_DECAY)}

    def _same_optimizers(self, cells: Sequence[Cell]) -> list[str]:
        """A line if two cells differ only in Adam and AdamW, and have no weight decay."""
        plain = [(cell.name, self.settings_of(cell.name, cell.project)) for cell in cells]
        alike = [
            (name, dataclasses.replace(settings, optimizer="adam"))
            for name, settings in plain
            if not settings.weight_decay
        ]
        if all(alike.count(one) == 1 for one in alike):
            return []
        return [
            f"without weight decay, adam and adamw are the same optimizer. Write weight_decay = {ADAMW_DECAY} for adamw"
        ]
