"""`mmfeat status`: what is in the store for each encoder, and why the rest is not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmfeat.errors import EncoderError
from mmfeat.models.runs import all_runs
from mmfeat.store.status import EncoderStatus, encoder_status
from mmfeat.workflows.project import Project


@dataclass(frozen=True)
class StatusResult:
    """The state of a project.

    Attributes
    ----------
    encoders : list of EncoderStatus
        Rows cached, missing, stale, unreadable and absent of each encoder that can be built.
    failures : dict of str to str
        Encoder to the reason why it cannot be built.
    """

    encoders: list[EncoderStatus]
    failures: dict[str, str]
    checkpoints: dict[str, str | None]
    problems: list[str]
    n_runs: int
    n_rows: int
    has_outputs: bool


def status(project: Project, rehash: bool = False) -> StatusResult:
    """Look at every encoder's rows; encodes nothing, and reads only images that changed or, with `rehash`, all."""
    if rehash:
        project.rehash()
    found, failures, checkpoints = [], {}, {}
    for name, table in project.config.encoder.items():
        try:
            identity = project.identity(name)
        except EncoderError as error:
            failures[name] = str(error)
            continue
        keys = project.row_keys(table.modality)
        one = encoder_status(project.store, name, identity.model, identity.spec, keys.keys, keys.present)
        refused = len(keys.refused)
        found.append(replace(one, unreadable=one.unreadable + refused, absent=one.absent - refused))
        checkpoints[name] = identity.checkpoint
    return StatusResult(
        found, failures, checkpoints, project.store.problems, len(all_runs(project.runs)),
        project.manifest.n_samples, bool(checkpoints) and all(checkpoints.values()),
    )  # fmt: skip
