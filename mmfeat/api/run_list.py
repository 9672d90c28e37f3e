"""`Project.runs`: the runs of a project as a list."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from mmfeat.common.text import counted
from mmfeat.project.named_models import find_run
from mmfeat.report.result import Record, TableResult
from mmfeat.runs.run import Run, all_runs

if TYPE_CHECKING:
    from mmfeat.api.run_verbs import RunVerbs
    from mmfeat.workflows.runs import RunsResult


@dataclass(frozen=True, kw_only=True, repr=False)
class RunList(TableResult, Sequence[Run]):
    """The runs of a project, oldest first; a sequence that also takes names: `p.runs["crossattn-1"]`.

    Metrics in its table are those that each run recorded when it was made. `p.table()` computes them on the present val
    rows and ranks runs and encoders.

    Attributes
    ----------
    runs : tuple of Run
        All runs whose records can be read.
    """

    runs: tuple[Run, ...]
    project: RunVerbs = field(compare=False)

    @classmethod
    def of(cls, project: RunVerbs) -> RunList:
        """The runs of a project, as they are now."""
        return cls(runs=tuple(all_runs(project.runs_folder)), project=project)

    @property
    def names(self) -> list[str]:
        """The names of the runs."""
        return [run.name for run in self.runs]

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, which: int | str) -> Run: ...
    @overload
    def __getitem__(self, which: slice) -> list[Run]: ...
    def __getitem__(self, which: int | str | slice) -> Run | list[Run]:
        """A run by its position or its name, or several by a slice.

        Raises
        ------
        RunError
            There is no run of this name; the message lists the runs.
        """
        if isinstance(which, str):
            return next((run for run in self.runs if run.name == which), None) or find_run(self.project, which)
        return list(self.runs[which]) if isinstance(which, slice) else self.runs[which]

    def __contains__(self, run: object) -> bool:
        return run in self.names if isinstance(run, str) else run in self.runs

    def __call__(self, **options: Any) -> RunsResult:
        """The former command `p.runs()`: the same as `p.table()`, with a DeprecationWarning."""
        warnings.warn(
            "p.runs() is p.table() now, and p.runs is the list of runs. The former call ends with version 0.4",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.project.table(**options)

    def _about(self) -> str:
        return f"{counted(len(self), 'run')}, oldest first; metrics on val as recorded when each was made"

    def _table(self) -> list[Record]:
        return [_record(run) for run in self.runs]


def _record(run: Run) -> Record:
    figures = run.record["figures"]["val"] or {}
    return {
        "run": run.name,
        "kind": run.kind,
        "head": run.record.get("head"),
        "made from": "+".join(run.made_from),
        "samples F1": figures.get("samples_f1"),
        "mAP": figures.get("map"),
        "created": run.created[:19].replace("T", " "),
    }
