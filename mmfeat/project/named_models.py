"""A run, or an encoder with its linear probe, by the name that `mmfeat runs` lists: one resolver for all commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project
from mmfeat.project.provenance import encoder_record
from mmfeat.runs.run import Run, read_run
from mmfeat.runs.run_names import no_run


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedModel:
    """What predicts: a run, or an encoder with its linear probe.

    Attributes
    ----------
    run : Run or None
        None for an encoder.
    identity : Identity or None
        The encoder as it is now; None for a run.
    """

    name: str
    run: Run | None = None
    identity: Identity | None = None

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """The encoders that it reads, as a run records them."""
        return {self.name: encoder_record(self.identity, True)} if self.run is None else self.run.encoders


def find_model(project: Project, name: str) -> NamedModel:
    """A run or an encoder by its name; an encoder without a linear probe is an error where it is used.

    Raises
    ------
    RunError
        There is no such run or encoder; the message lists those of the project.
    """
    if name in project.config.encoder:
        return NamedModel(name=name, identity=project.identity(name))
    return NamedModel(name=name, run=find_run(project, name))


def find_run(project: Project, name: str) -> Run:
    """A run by its name, with its classes in the manifest's order where they are the same.

    Raises
    ------
    RunError
        There is no such run; the message lists the runs and encoders of the project.
    """
    if not re.fullmatch(r"[\w.-]+", name) or not (project.runs_folder / name).is_dir():
        raise no_run(project.runs_folder, name, list(project.config.encoder))
    return read_run(project.runs_folder / name).in_order_of(project.manifest.classes)
