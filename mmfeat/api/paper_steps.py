"""What the studies of the paper share: their steps with their cost, and the encoders that they start from."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmfeat.api.verbs import Project
from mmfeat.common.text import shown, toml_value
from mmfeat.config.finetune_recipes import recipe_settings
from mmfeat.config.presets import PRESETS
from mmfeat.report.paper_sheet import Sheet

if TYPE_CHECKING:
    from mmfeat.project.project import Project as Snapshot
    from mmfeat.runs.run import Run
    from mmfeat.training.study_costs import Cost

IMAGE, TEXT = "image", "text"


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a reproduction, before it is run.

    Attributes
    ----------
    command : str
        The command that it is.
    tables : str
        The tables that it makes.
    seconds : float or None
        Estimate on this machine; 0 if it is made, None if it is not known before.
    what : str
        What is left to do.
    """

    command: str
    tables: str
    seconds: float | None
    what: str


class Study(ABC):
    """One part of the paper.

    Attributes
    ----------
    numbers : tuple of int
        Its tables; empty for self-training and the submission.
    files : tuple of str
        Further files that it writes into the project's folder.
    encodes : bool
        Whether the project's encoders are fine-tuned and their features cached first.
    """

    numbers: tuple[int, ...]
    files: tuple[str, ...] = ()
    encodes: bool = False

    @abstractmethod
    def plan(self, project: Project) -> list[PlannedStep]:
        """Its steps and their cost; the project is opened with `dry=True`."""

    @abstractmethod
    def run(self, project: Project, step: Callable[[str], None], *, overwrite: bool) -> list[Sheet]:
        """Run the commands, of which `step` is told, and return the tables; `overwrite` is theirs."""


def planned(command: str, tables: str, cost: Cost) -> PlannedStep:
    """A step with its cost."""
    return PlannedStep(command=command, tables=tables, seconds=cost.seconds, what=cost.what)


def encoders_step(project: Project) -> PlannedStep:
    """The step of studies that need the project's encoders."""
    from mmfeat.training.study_costs import encoding_cost

    return planned("mmfeat finetune; mmfeat extract", "", encoding_cost(project))


def encode(project: Project, step: Callable[[str], None]) -> None:
    """Fine-tune the project's encoders by its settings, unless these are in use or were before self-training; and encode."""
    from mmfeat.training.encoder_rounds import as_before
    from mmfeat.training.finetune_plan import fit_plan
    from mmfeat.workflows.extract import extract

    before = as_before(project)
    made = {name: fit_plan(project, name, freeze=False).made for name in (IMAGE, TEXT)}
    if not all(one is not None and before.identity(name).checkpoint == one.name for name, one in made.items()):
        step("mmfeat finetune")
        project.finetune()
    step("mmfeat extract")
    extract(before_rounds(project))


def before_rounds(project: Project) -> Snapshot:
    """The project as it is now, with the encoders that self-training starts from."""
    from mmfeat.training.encoder_rounds import as_before

    return as_before(project.reopened())


def with_encoders_of(project: Project, run: Run) -> Snapshot:
    """The project as it is now, with the encoders that a run reads; another fine-tuning may have replaced them since."""
    now, checkpoints = project.reopened(), {name: run.record["encoders"][name]["checkpoint"] for name in (IMAGE, TEXT)}
    tables = {
        name: _with_checkpoint(now.config.encoder[name], f"checkpoints/{made}")
        for name, made in checkpoints.items()
        if made and made != now.identity(name).checkpoint
    }
    encoders = {**now.config.encoder, **tables}
    return now.derived(config=dataclasses.replace(now.config, encoder=encoders), folder=now.root) if tables else now


def _with_checkpoint(table: Any, checkpoint: str) -> Any:
    return dataclasses.replace(table, checkpoint=checkpoint)


def about(project: Project) -> list[str]:
    """The rows, and how the project's encoders and settings differ from the paper's."""
    manifest = project.manifest
    rows = {which: len(manifest.rows(which)) for which in ("train", "val", "unlabelled")}
    notes = ["Rows: " + ", ".join(f"{n:,} {which}" for which, n in rows.items()) + "."]
    for name in (IMAGE, TEXT):
        wanted = PRESETS["paper"].settings[f"encoder.{name}.model"]
        table = project.config.encoder.get(name)
        if table is not None and (table.model != wanted or table.pretrained == "random"):
            weights = " with random weights" if table.pretrained == "random" else ""
            notes.append(
                f"The {name} encoder is not the paper's ({wanted}): it is {shown(table.model)}{weights}. Differences are "
                "those of the encoders and the data."
            )
    if others := _other_settings(project):
        notes.append(f"Settings that are not the preset's: {shown(', '.join(others), 500)}.")
    return notes


def _other_settings(project: Project) -> list[str]:
    """The settings in which a project departs from the preset, as lines of mmfeat.toml; its encoders are named elsewhere."""
    config, wanted = project.config, PRESETS["paper"].settings
    found = {key: value for key, value in config.dotted() if key in wanted and value != wanted[key]}
    for name in (IMAGE, TEXT):
        own, recipe = vars(config.finetune_of(name)), vars(recipe_settings("paper", name))
        found |= {f"finetune.{name}.{key}": value for key, value in own.items() if value != recipe[key]}
    return [f"{key} = {toml_value(value)}" for key, value in found.items() if not key.startswith("encoder.")]
