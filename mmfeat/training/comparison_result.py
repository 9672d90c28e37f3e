"""The result of `mmfeat compare heads` and `mmfeat compare encoders`, and the files that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.text import counted
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.comparison_table import ComparisonTable, Layout
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult, metric_records
from mmfeat.runs.comparison import ScoredModel
from mmfeat.runs.comparison_files import ComparisonFolder


@dataclass(frozen=True, kw_only=True, repr=False)
class ComparisonResult(TableResult):
    """Models scored on the same val rows, and the files of the comparison.

    Attributes
    ----------
    models : list of ScoredModel
        In the order of the table.
    baselines : list of MetricRow
        Baselines on the same rows.
    failed : dict of str to str
        Label of a model that could not be compared to the reason.
    made : bool
        False if all results and files existed already.
    files : list of Path
        `models.csv`, `classes.csv`, `comparison.md`, `comparison.png`.
    """

    models: list[ScoredModel]
    baselines: list[MetricRow]
    table: ComparisonTable
    failed: dict[str, str]
    made: bool
    folder: Path
    files: list[Path]
    n_train: int
    n_val: int
    n_seeds: int

    def _about(self) -> str:
        made = "Made" if self.made else "Already made:"
        models = counted(len(self.models), "model")
        return f"{made} comparisons/{self.folder.name}: {models} on {counted(self.n_val, 'val row')}"

    def _table(self) -> list[Record]:
        rows = [MetricRow.of(model.label, model.metrics, note=model.note) for model in self.models]
        return metric_records([*self.baselines, *rows])


def write_comparison(
    project: Project,
    folder: ComparisonFolder,
    models: list[ScoredModel],
    *,
    title: str,
    baselines: list[MetricRow],
    layout: Layout,
    failed: dict[str, str],
    overwrite: bool,
) -> dict[str, Any]:
    """Write the tables of a comparison, and return the fields of its :class:`ComparisonResult`."""
    manifest = project.manifest
    table = ComparisonTable(title=title, models=models, baselines=baselines, classes=manifest.classes, layout=layout)
    files, written = table.write(Outputs(project.config, overwrite=overwrite), folder.path)
    return {
        "models": models,
        "baselines": baselines,
        "table": table,
        "failed": failed,
        "made": folder.made or written,
        "folder": folder.path,
        "files": files,
        "n_train": len(manifest.rows("train")),
        "n_val": len(manifest.rows("val")),
        "n_seeds": max(len(model.seeds) for model in models),
    }
