"""`mmfeat export`: write a run as one folder that needs no project."""

from __future__ import annotations

from pathlib import Path

from mmfeat.common.former_arguments import former_arguments
from mmfeat.inference.model_export import ExportResult, export_model
from mmfeat.project.project import Project


@former_arguments(3, "dtype", "format", name="run", runtime="format")
def export(
    project: Project, run: str, destination: Path | str, *, dtype: str = "float32", format: str = "torch"
) -> ExportResult:
    """Write a run, or an encoder with its linear probe, as one folder. See :func:`export_model`."""
    return export_model(project, run, destination, dtype=dtype, format=format)
