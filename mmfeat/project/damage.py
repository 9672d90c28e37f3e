"""Find the runs and checkpoints of a project that are damaged or have no seal."""

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


@dataclass(frozen=True, kw_only=True)
class ProjectSeals:
    """The result of checking the seals of a project.

    Attributes
    ----------
    damaged : list of str
        A line for each run and checkpoint with a missing or changed file.
    unsealed : str
        One line that counts files without a seal, which an earlier version made; empty if there are none.
    n_runs : int
        Runs whose record can be read.
    """

    damaged: list[str]
    unsealed: str
    n_runs: int


def project_seals(project: Project) -> ProjectSeals:
    """Check the files of all runs and checkpoints; files that this machine has checked before are not read again."""
    runs, checkpoints = all_runs(project.runs_folder), []
    damaged = list(damaged_runs(project.runs_folder).values())
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
    unsealed = [
        counted(n, what)
        for n, what in (
            (sum(not run.sealed for run in runs), "run"),
            (sum(not checkpoint.sealed for checkpoint in checkpoints), "checkpoint"),
        )
        if n
    ]
    manifest = project.root / MANIFEST
    if manifest.is_file() and not is_sealed_file(manifest):
        unsealed.append("the manifest")
    return ProjectSeals(damaged=damaged, unsealed=_about_unsealed(unsealed), n_runs=len(runs))


def _about_unsealed(what: list[str]) -> str:
    if not what:
        return ""
    named = " and ".join([", ".join(what[:-1]), what[-1]] if len(what) > 1 else what)
    were = "was" if len(what) == 1 and (what[0] == "the manifest" or what[0].startswith("1 ")) else "were"
    return f"{named} {were} written by an older mmfeat without seals, so a changed bit in them may go unnoticed"
