"""`mmfeat runs`: every run and every encoder's linear probe on the val rows, best first."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.common.text import counted
from mmfeat.inference.next_commands import after_runs
from mmfeat.inference.run_ranking import RankedRun, ranked_runs
from mmfeat.project.project import Project
from mmfeat.report.result import Record, TableResult
from mmfeat.report.selection_notes import about_selection

__all__ = ["RankedRun", "RunsResult", "ranked_runs", "runs"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RunsResult(TableResult):
    """Runs and encoders, best first.

    Attributes
    ----------
    runs : list of RankedRun
        Runs, and encoders with a linear probe. Runs without metrics come last.
    metric : str
        The metric of the ranking.
    after : str
        The command to type next.
    """

    runs: list[RankedRun]
    metric: str
    n_val: int
    after: str

    @property
    def selection(self) -> str:
        """A clause about what was selected on the val rows."""
        rounds = any(line.run is not None and line.run.kind == "selftrain" for line in self.runs)
        uses = {line.name: line.val_use for line in self.runs if line.val_use is not None}
        return about_selection(uses, "epochs and rounds" if rounds else "epochs")

    def _about(self) -> str:
        if not self.runs:
            return f"No runs yet. Next: {self.after}"
        order = f"best {self.metric} first" if self.n_val else "newest first"
        return f"{counted(len(self.runs), 'run or encoder', 'runs and encoders')} on {counted(self.n_val, 'val row')}, {order}"

    def _table(self) -> list[Record]:
        return [_record(line) for line in self.runs]


def _record(line: RankedRun) -> Record:
    scores = line.metrics.scores if line.metrics else None
    return {
        "run": line.name,
        "made from": line.made_from,
        "samples F1": scores.samples_f1 if scores else None,
        "±": line.metrics.half_width if line.metrics else None,
        "macro F1": scores.macro_f1 if scores else None,
        "mAP": scores.map if scores else None,
        "MB": line.size_mb,
        "state": line.about,
    }


def runs(project: Project) -> RunsResult:
    """Rank runs and encoders by the project's metric on the val rows, newest first without val rows."""
    ranked = ranked_runs(project)
    return RunsResult(
        runs=ranked,
        metric=project.config.metric,
        n_val=len(project.manifest.rows("val")),
        after=after_runs(project, ranked),
    )
