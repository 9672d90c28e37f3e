"""The report of a project as a page: all runs on the same rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError, MmfeatError
from mmfeat.common.text import counted, megabytes
from mmfeat.inference.evaluation import EvaluatedModel, evaluated_model, rows_to_score
from mmfeat.inference.model_facts import data_facts
from mmfeat.inference.page_pictures import Pictures
from mmfeat.inference.run_galleries import audit_section, samples_of, shown_findings
from mmfeat.inference.run_ranking import RankedRun, ranked_runs
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.audit_record import read_audit
from mmfeat.project.project import Project
from mmfeat.report.evaluation_table import verdict
from mmfeat.report.html.blocks import Block, Facts, Page, PageTable, Section, Text, Tile
from mmfeat.report.html.metric_sections import metric_page_table
from mmfeat.report.html.rendering import figure
from mmfeat.report.selection_notes import about_selection
from mmfeat.report.table_layout import Cell, number, outside, signed, table
from mmfeat.report.text_tables import about_metrics, metric_title

COMPARED = 12  # runs that are compared with the best one, and class by class


def project_page(project: Project, reports: dict[str, Path]) -> Page:
    """The comparison of all runs and encoders of a project, on val rows.

    Parameters
    ----------
    reports : dict of str to Path
        The report of each run that has one, relative to the page.
    """
    ranked = ranked_runs(project)
    scored = [line for line in ranked if line.metrics is not None]
    sections = [
        Section.of("data", "Data", [Facts(pairs=tuple(data_facts(project)))]),
        _runs_section(project, ranked, reports),
        *_comparison(project, scored),
        _audit(project),
    ]
    return Page(
        title=f"Project {project.root.name}",
        eyebrow="All runs on the same rows",
        tiles=_tiles(project, ranked),
        sections=tuple(sections),
    )


def _tiles(project: Project, ranked: Sequence[RankedRun]) -> tuple[Tile, ...]:
    runs = sum(line.run is not None for line in ranked)
    tiles = [
        Tile(title="rows", value=f"{project.manifest.n_samples:,}"),
        Tile(title="classes", value=f"{len(project.manifest.classes):,}"),
        Tile(title="runs", value=f"{runs:,}", detail=counted(len(ranked) - runs, "encoder")),
    ]
    best = next((line for line in ranked if line.state == "current" and line.metrics is not None), None)
    if best is not None:
        metric = project.config.metric
        value = figure(best.metrics.scores.value(metric))
        tiles.append(Tile(title=f"best {metric_title(metric)} on val", value=value, detail=best.name))
    return tuple(tiles)


def _runs_section(project: Project, ranked: Sequence[RankedRun], reports: dict[str, Path]) -> Section:
    rows = counted(len(project.manifest.rows("val")), "val row")
    scored = [line for line in ranked if line.metrics is not None]
    blocks: list[Block] = []
    if not ranked:
        blocks.append(Text(text="There are no runs yet. Run: mmfeat fuse", kind="warn"))
    if scored:
        lines = [MetricRow.of(line.name, line.metrics, note=line.about) for line in scored]
        links = {name: path.as_posix() for name, path in reports.items()}
        blocks.append(metric_page_table(lines, rows=rows, subjects=[lines[0].label], name="runs", links=links))
        uses = {line.name: line.val_use for line in scored if line.val_use is not None}
        blocks += [Text(text=one) for one in about_metrics(lines[-1], about_selection(uses)).splitlines()]
    elif ranked:
        blocks.append(Text(text="No run has metrics: there are no val rows, or the table below says why.", kind="warn"))
    facts = [
        [
            outside(line.name),
            outside(line.made_from, 80),
            Cell(_size(line), line.size_mb),
            line.created[:10],
            outside(line.about, 200),
            line.note,
        ]
        for line in ranked
    ]
    if facts:
        head = ["run", "made from", "size", "made", "state"]
        blocks.append(PageTable(name="", table=table(head, facts, left=5, title="runs"), caption="How each was made"))
    return Section.of("runs", "Runs", blocks)


def _size(line: RankedRun) -> str:
    return "-" if line.size_mb is None else megabytes(line.size_mb)


def _comparison(project: Project, scored: Sequence[RankedRun]) -> list[Section]:
    """The best run against the others, and F1 class by class."""
    try:
        rows = rows_to_score(project, "val")
    except DataError:
        return []
    found: dict[str, EvaluatedModel] = {}
    for line in scored[:COMPARED]:
        try:
            found[line.name] = evaluated_model(project, line.name, rows)
        except MmfeatError:  # a stale run whose features are gone
            continue
    if not found:
        return []
    sections = [_differences(project, found, rows)] if len(found) > 1 else []
    return [*sections, _by_class(project, found)]


def _differences(project: Project, found: dict[str, EvaluatedModel], rows: np.ndarray) -> Section:
    (first, best), *others = found.items()
    metric = project.config.metric
    name, labels = metric.replace("-", "_"), project.manifest.labels[rows]
    cells = []
    for other, one in others:
        difference = paired_bootstrap(labels, best.outcome, one.outcome, names=(name,))
        cells.append([outside(other), *map(signed, difference[name]), verdict(difference, metric)])
    head = ["run", f"{first} minus it", "95 % from", "to"]
    shown = table(head, cells, title="differences")
    text = f"Difference in {metric_title(metric)} on the same rows (paired bootstrap). The best of several runs looks better than it is: it was selected on these rows."
    return Section.of(
        "differences", f"{first} against the others", [Text(text=text), PageTable(name="differences", table=shown)]
    )


def _by_class(project: Project, found: dict[str, EvaluatedModel]) -> Section:
    scores = {name: one.metrics.scores for name, one in found.items()}
    first = next(iter(scores.values()))
    cells = []
    for k, name in enumerate(project.manifest.classes):
        n = int(first.n_positives[k])
        values = [number(float(one.class_f1[k]) if n else None, unknown="") for one in scores.values()]
        cells.append([Cell(name, name), n, *values])
    shown = table(["class", "positives", *scores], cells, title="F1 by class")
    more = f" The {len(scores)} best runs." if len(scores) == COMPARED else ""
    return Section.of(
        "classes",
        "F1 by class",
        [Text(text=f"F1 on val rows.{more}"), PageTable(name="classes", table=shown, sortable=True)],
    )


def _audit(project: Project) -> Section:
    """What the last audit reports, without its samples: reports of runs show these."""
    nothing = samples_of(project, Pictures())
    try:
        found = shown_findings(project, read_audit(project))
    except DataError as error:
        return audit_section(shown_findings(project, None, str(error)), nothing)
    return audit_section(dataclasses.replace(found, shown={}), nothing)
