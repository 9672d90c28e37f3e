"""`mmfeat runs`: every run and every encoder's linear probe on the val rows, best first."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import counted, megabytes, shown
from mmfeat.inference.next_commands import after_runs
from mmfeat.inference.run_ranking import RankedRun, ranked_runs
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.result import Record, Result, TableResult
from mmfeat.report.selection_notes import about_selection
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.run_names import delete_run, note_run, rename_run

__all__ = ["ChangedRun", "RankedRun", "RunsResult", "annotate", "delete", "ranked_runs", "rename", "runs"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RunsResult(TableResult):
    """Runs and encoders, best first.

    Attributes
    ----------
    runs : list of RankedRun
        Runs, and encoders with a linear probe. Runs without metrics come last.
    metric : str
        The metric of the ranking.
    limit_mb : float
        The limit of a whole model's size in megabytes; 0 for none.
    sort : str
        The column that the lines are sorted by instead; empty for the ranking.
    after : str
        The command to type next.
    """

    runs: list[RankedRun]
    metric: str
    n_val: int
    after: str
    limit_mb: float = 0.0
    sort: str = ""

    @property
    def selection(self) -> str:
        """A clause about what was selected on the val rows."""
        rounds = any(line.run is not None and line.run.kind == "selftrain" for line in self.runs)
        uses = {line.name: line.val_use for line in self.runs if line.val_use is not None}
        return about_selection(uses, "epochs and rounds" if rounds else "epochs")

    def _about(self) -> str:
        if not self.runs:
            return f"No runs yet. Next: {self.after}"
        order = f"best {metric_title(self.metric)} first" if self.n_val else "newest first"
        order = f"by {self.sort}" if self.sort else order
        return f"{counted(len(self.runs), 'run or encoder', 'runs and encoders')} on {counted(self.n_val, 'val row')}, {order}"

    def _table(self) -> list[Record]:
        return [_record(line) for line in self.runs]

    @property
    def n_over(self) -> int:
        """Number of models that are larger than `limit_mb`."""
        return sum(0 < self.limit_mb < (line.size_mb or 0) for line in self.runs)

    @property
    def about_limit(self) -> str:
        """How many models are larger than the limit, and by how much it is met or missed; empty without a limit."""
        spare = sorted(self.limit_mb - line.size_mb for line in self.runs if line.size_mb is not None)
        if not self.limit_mb or not spare:
            return ""
        limit = f"the limit of {self.limit_mb:g} MB (limit_mb)"
        if not self.n_over:
            of = f"All {counted(len(spare), 'model')} are" if len(spare) > 1 else "The model is"
            return f"{of} within {limit} by {megabytes(spare[0])}{' or more' if len(spare) > 1 else ''}."
        least, most = megabytes(-spare[self.n_over - 1]), megabytes(-spare[0])
        of = f"{self.n_over:,} of {counted(len(self.runs), 'model')} {'is' if self.n_over == 1 else 'are'}"
        return f"{of} over {limit} by {least if least == most else f'{least} to {most}'}."


def _record(line: RankedRun) -> Record:
    scores = line.metrics.scores if line.metrics else None
    at_half = MetricRow.of(line.name, line.metrics).at_half if line.metrics else {}
    return {
        "run": line.name,
        "made from": line.made_from,
        "samples F1": scores.samples_f1 if scores else None,
        "±": line.metrics.half_width if line.metrics else None,
        "micro F1": scores.micro_f1 if scores else None,
        "macro F1": scores.macro_f1 if scores else None,
        "mAP": scores.map if scores else None,
        "mAP ±": line.metrics.map_spread if line.metrics else None,
        "loss": scores.loss if scores else None,
        **{f"{metric_title(name)} at 0.5": at_half.get(name) for name in ("samples_f1", "micro_f1", "macro_f1")},
        "MB": line.size_mb,
        "state": line.about,
        "created": line.created,
        "note": line.note,
    }


def runs(project: Project, *, sort: str = "") -> RunsResult:
    """Rank runs and encoders by the project's metric on the val rows, newest first without val rows.

    Parameters
    ----------
    sort : str
        A column to sort by instead, such as `map`: metrics and dates the highest first, sizes, losses and texts the lowest.

    Raises
    ------
    ConfigError
        There is no such column.
    """
    ranked = ranked_runs(project)
    return RunsResult(
        runs=_sorted(ranked, sort) if sort else ranked,
        metric=project.config.metric,
        n_val=len(project.manifest.rows("val")),
        after=after_runs(project, ranked),
        limit_mb=project.config.limit_mb,
        sort=sort,
    )


_LOWEST_FIRST = ("run", "made from", "loss", "MB", "state", "note", "±", "mAP ±")


def _sorted(ranked: list[RankedRun], sort: str) -> list[RankedRun]:
    """The lines by a column of their records; those without a value come last."""
    records = {id(line): _record(line) for line in ranked}
    columns = list(next(iter(records.values()), {}))
    column = next((name for name in columns if _plain(name) == _plain(sort)), None)
    if column is None and columns:
        names = ", ".join(_plain(name) for name in columns)
        raise ConfigError(f"--sort {shown(sort)}: no such column. Use one of: {names}")
    known = [line for line in ranked if records[id(line)][column] not in (None, "")]
    known.sort(key=lambda line: records[id(line)][column], reverse=column not in _LOWEST_FIRST)
    return known + [line for line in ranked if line not in known]


def _plain(column: str) -> str:
    """A column's name as it is typed: `samples-f1`."""
    return column.strip().lower().replace(" ", "-").replace("_", "-")


@dataclass(frozen=True, kw_only=True, repr=False)
class ChangedRun(Result):
    """A run that was renamed, deleted or annotated.

    Attributes
    ----------
    name : str
        Its present name, or the name that it had.
    made : str
        What was done, in a sentence.
    """

    name: str
    made: str

    def _about(self) -> str:
        return self.made


def rename(project: Project, old: str, new: str) -> ChangedRun:
    """Rename a run; see :func:`mmfeat.runs.run_names.rename_run`."""
    run = rename_run(project.runs_folder, old, new, project.config.encoder)
    return ChangedRun(name=run.name, made=f"Renamed runs/{old} to runs/{run.name}.")


def delete(project: Project, name: str) -> ChangedRun:
    """Delete a run; see :func:`mmfeat.runs.run_names.delete_run`."""
    delete_run(project.runs_folder, name)
    return ChangedRun(name=name, made=f"Deleted runs/{name}.")


def annotate(project: Project, name: str, note: str) -> ChangedRun:
    """Replace the note of a run; see :func:`mmfeat.runs.run_names.note_run`."""
    run = note_run(project.runs_folder, name, note)
    made = f"The note of runs/{run.name} is: {run.note}" if run.note else f"runs/{run.name} has no note."
    return ChangedRun(name=run.name, made=made)
