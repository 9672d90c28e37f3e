"""The result of a command that makes a run: the run, its table, and a method to export it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.inference.model_export import ExportResult, export_model
from mmfeat.inference.threshold_report import ThresholdReport
from mmfeat.project.project import Project
from mmfeat.report.result import TableResult
from mmfeat.runs.run import Run
from mmfeat.runs.run_names import Naming


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult(TableResult):
    """A run that was made now or existed already.

    Attributes
    ----------
    made : bool
        False if the run existed and was made from the same rows, features and settings.
    threshold : ThresholdReport or None
        Its threshold, and what other settings would gain. None without val rows.
    """

    run: Run
    made: bool
    threshold: ThresholdReport | None

    def export(
        self,
        destination: Path | str,
        *,
        dtype: str = "float32",
        format: str = "torch",
        settings: dict[str, Any] | None = None,
    ) -> ExportResult:
        """Write the run as one folder that needs no project; see :func:`mmfeat.inference.model_export.export_model`.

        Parameters
        ----------
        settings : dict of str to Any, optional
            Keys of mmfeat.toml to override, such as `{"predict.threshold": 0.4}`.
        """
        project = Project(self.run.folder.parent.parent, settings)
        return export_model(project, self.run.name, destination, dtype=dtype, format=format)

    def _about(self) -> str:
        return f"{'Made' if self.made else 'Already made:'} runs/{self.run.name}"


def check_naming(project: Project, naming: Naming, run: Run | None) -> None:
    """Check the name and the note that were asked for, before any work; `run` is the same run, if it exists.

    Raises
    ------
    RunError
        The name is taken by another run, an encoder or a recipe, or the name or the note cannot be kept.
    """
    if run is None or run.name != naming.name:
        naming.check(project.runs_folder, project.config.encoder)


def to_name(run: Run, naming: Naming) -> str:
    """The command that gives an existing run the name or the note that was asked for; empty if it has them."""
    if naming.name and run.name != naming.name:
        return f"mmfeat runs --rename {run.name} {naming.name}"
    if naming.note and run.note != naming.note:
        return f"mmfeat runs --note {run.name} {shlex.quote(naming.note)}"
    return ""
