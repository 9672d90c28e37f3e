"""Which runs and checkpoints of a project are damaged, and what in it was made before seals."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmfeat.common.errors import EncoderError
from mmfeat.common.seals import is_sealed_file
from mmfeat.common.text import counted
from mmfeat.encoders.checkpoint import RECORD, read_checkpoint
from mmfeat.project.project import Project
from mmfeat.project.project_folder import MANIFEST
from mmfeat.runs.run import all_runs, damaged_runs


@dataclass(frozen=True)
class Seals:
    """What the seals of a project say.

    Attributes
    ----------
    damaged : list of str
        A line for each run and checkpoint with a missing or changed file.
    unsealed : str
        What was made before seals, in one line; empty where all is sealed.
    n_runs : int
        Runs whose record can be read.
    """

    damaged: list[str]
    unsealed: str
    n_runs: int


def project_seals(project: Project) -> Seals:
    """Check the files of all runs and checkpoints; those that this machine has checked before are not read again."""
    runs, checkpoints = all_runs(project.runs), []
    damaged = list(damaged_runs(project.runs).values())
    damaged += [why for run in runs if (why := run.damage())]
    for file in sorted(project.checkpoints.glob(f"*/{RECORD}")) + sorted(project.checkpoints.glob(f"*/*/{RECORD}")):
        if not re.fullmatch(r"[^.].*-\d+", file.relative_to(project.checkpoints).parts[0]):
            continue
        try:
            checkpoints.append(read_checkpoint(file.parent))
        except EncoderError as error:
            damaged.append(str(error))
            continue
        if why := checkpoints[-1].damage():
            damaged.append(why)
    manifest = project.root / MANIFEST
    old = [
        counted(sum(not run.sealed for run in runs), "run"),
        counted(sum(not checkpoint.sealed for checkpoint in checkpoints), "checkpoint"),
        "the manifest" if manifest.is_file() and not is_sealed_file(manifest) else "0",
    ]
    old = [one for one in old if not one.startswith("0")]
    if not old:
        return Seals(damaged, "", len(runs))
    named = " and ".join([", ".join(old[:-1]), old[-1]] if len(old) > 1 else old)
    were = "was" if old == ["the manifest"] or (len(old) == 1 and old[0].startswith("1 ")) else "were"
    return Seals(
        damaged, f"{named} {were} made before seals: unsealed, a changed bit in them may go unnoticed", len(runs)
    )
