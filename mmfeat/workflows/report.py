"""`mmfeat report`: a run, or all runs of a project, as one HTML file that needs nothing beside it, and tables as CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError
from mmfeat.inference.next_commands import after_report
from mmfeat.inference.project_page import project_page
from mmfeat.inference.run_page import PageOptions, run_page
from mmfeat.inference.run_ranking import selected_model
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project
from mmfeat.report.html.blocks import Page
from mmfeat.report.html.pages import page_files, page_html, page_path
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult
from mmfeat.runs.run import all_runs

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True, repr=False)
class ReportResult(TableResult):
    """A report.

    Attributes
    ----------
    file : Path
        The page.
    tables : list of Path
        Its tables as CSV, beside it.
    run : str
        The run or encoder; empty for the report of a project.
    chosen : str
        How the run was selected; empty if it was named.
    n_sections : int
        Sections of the page.
    mb : float
        Size of the page in megabytes.
    after : str
        The command to type next.
    """

    file: Path
    tables: list[Path]
    run: str
    chosen: str
    n_sections: int
    mb: float
    after: str

    def _about(self) -> str:
        return f"Made {self.file} ({self.mb:.1f} MB)"

    def _table(self) -> list[Record]:
        return [{"table": str(path)} for path in self.tables]


def report(
    project: Project,
    run: str | None = None,
    *,
    of_project: bool = False,
    split: str = "val",
    images: bool = True,
    captions: bool = True,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> ReportResult:
    """Write a report as one HTML file.

    Parameters
    ----------
    run : str, optional
        A run, or an encoder with its linear probe; the best run on val, if None.
    of_project : bool
        Whether to compare all runs of the project instead.
    split : str
        The labelled rows of the metrics: `val`, `test`, `train`, or `train+val` for heads in folds.
    images, captions : bool
        Whether to show pictures and captions; without for confidential data.
    out : Path, optional
        The file to write; if None, report.html in the run's folder, or in runs/ for a project.
    overwrite : bool
        Whether to replace files that mmfeat did not write or that were changed since.

    Raises
    ------
    ConfigError
        A run is named, and a report of all runs is asked for; or `out` does not end in .html.
    RunError
        There is no such run, or none at all.
    DataError
        There are no labelled rows of a split other than val.
    OutputError
        A file must not be replaced.
    """
    _check_arguments(run, of_project, out)
    model, chosen = (None, "") if of_project else selected_model(project, run)
    file, own = _file(project, model, split, out)
    outputs = Outputs(project.config, overwrite=overwrite)
    outputs.check(file, own=own, earlier=own)  # before any work
    page = _page(project, model, PageOptions(split=split, images=images, captions=captions), file)
    html = page_html(page)
    tables = {file.with_name(f"{file.stem}-{name}.csv"): text for name, text in page_files(page).items()}
    for path in tables:
        outputs.check(path, own=own, earlier=own)
    for path, text in {file: html, **tables}.items():
        outputs.write(path, text, own=own, earlier=own)
    return ReportResult(
        file=file,
        tables=list(tables),
        run="" if model is None else model.name,
        chosen=chosen,
        n_sections=len(page.sections),
        mb=len(html.encode("utf-8")) / 1e6,
        after=after_report(project, model is None),
    )


def _check_arguments(run: str | None, of_project: bool, out: Path | str | None) -> None:
    if of_project and run:
        elsewhere = "For a project elsewhere: mmfeat --project DIR report --project"
        raise ConfigError(f"report --project compares all runs: leave out {run!r}. {elsewhere}")
    if out is not None:
        page_path("--out", out)


def _file(project: Project, model: NamedModel | None, split: str, out: Path | str | None) -> tuple[Path, bool]:
    """The page's file, and whether it is at a place for mmfeat's own files."""
    if out is not None:
        return page_path("--out", out), False
    name = REPORT if split == "val" else f"report-{split.replace('+', '-')}.html"
    if model is None:
        return project.runs_folder / REPORT, True
    if model.run is None:
        return project.runs_folder / name.replace("report", f"report-{model.name}", 1), True
    return model.run.folder / name, True


def _page(project: Project, model: NamedModel | None, options: PageOptions, file: Path) -> Page:
    return project_page(project, _reports(project, file)) if model is None else run_page(project, model, options)


def _reports(project: Project, file: Path) -> dict[str, Path]:
    """The reports of runs on val that exist, relative to the page; none if it is not in runs/."""
    if file.parent != project.runs_folder:
        return {}
    found = {run.name: Path(run.name) / REPORT for run in all_runs(project.runs_folder)}
    return {name: path for name, path in found.items() if (project.runs_folder / path).is_file()}
