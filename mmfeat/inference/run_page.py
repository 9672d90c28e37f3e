"""The report of one run or encoder as a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.text import counted
from mmfeat.inference.evaluation import EvaluatedModel, evaluated_model, rows_to_score
from mmfeat.inference.model_facts import data_facts, histories, lineage_facts, model_facts, part_table
from mmfeat.inference.page_pictures import page_pictures
from mmfeat.inference.report_metrics import alone_on, metric_lines
from mmfeat.inference.run_galleries import (
    Findings,
    RowPicks,
    about_in_sample,
    audit_section,
    error_section,
    picked_rows,
    samples_of,
    shown_findings,
    uncertain_section,
)
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.metrics.scoring import scores
from mmfeat.project.audit_record import read_audit
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of, state_of
from mmfeat.report.html.blocks import Block, Facts, Gallery, Heading, Page, PageTable, Section, Text, Tile
from mmfeat.report.html.cards import Predicted, Samples
from mmfeat.report.html.learning_sections import learning_section, rounds_section
from mmfeat.report.html.metric_sections import class_section, curve_section, metric_page_table
from mmfeat.report.html.pair_sections import Unimodal, found_by_table, pair_section
from mmfeat.report.html.rendering import figure
from mmfeat.report.round_table import about_judged
from mmfeat.report.selection_notes import about_selection
from mmfeat.report.text_tables import about_metrics, metric_title, weight_table


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What a report shows.

    Attributes
    ----------
    split : str
        The labelled rows of the metrics.
    images, captions : bool
        Whether pictures and captions are shown.
    """

    split: str = "val"
    images: bool = True
    captions: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """A model on the rows of the report."""

    rows: np.ndarray
    found: EvaluatedModel
    predicted: Predicted
    alone: list[Unimodal]

    @property
    def threshold(self) -> np.ndarray:
        """`(n, K)`."""
        return np.broadcast_to(np.asarray(self.found.decision.threshold, np.float64), self.predicted.probs.shape)


def run_page(project: Project, model: NamedModel, options: PageOptions) -> Page:
    """The report of a run, or of an encoder with its linear probe.

    Raises
    ------
    DataError
        There are no labelled rows of a split other than val.
    RunError, MissingFeatures
        The model has no logits of the rows.
    """
    scored = _scored(project, model, options.split)
    findings = _findings(project)
    picks = picked_rows(
        project,
        model,
        None if scored is None else scored.predicted,
        0.5 if scored is None else scored.threshold,
        [] if scored is None else scored.alone,
    )
    pictures = page_pictures(project, [*picks.rows, *findings.rows], images=options.images)
    samples = samples_of(project, pictures, picks, captions=options.captions)
    shown = np.array(sorted(set(picks.rows)), dtype=np.int64)
    notes = [pictures.note, about_in_sample(project, model, shown) if len(shown) else ""]
    notes += [] if options.captions else ["Captions were left out."]
    sections = [
        _about_section(project, model),
        *_metric_sections(project, model, scored, options.split),
        learning_section(histories(project, model)),
        _rounds(project, model),
        None if scored is None else _modality_section(project, scored, picks, samples),
        None if scored is None else error_section(picks, samples, notes),
        uncertain_section(picks, samples),
        audit_section(findings, samples),
        Section.of("lineage", "Lineage", [Facts(pairs=tuple(lineage_facts(project, model, _state(project, model))))]),
    ]
    return Page(
        title=model.name,
        eyebrow=f"Report of {'a run' if model.run is not None else 'an encoder'} of the project {project.root.name}",
        badges=_badges(project, model, scored, options.split),
        tiles=_tiles(project, scored),
        sections=tuple(one for one in sections if one is not None),
    )


def _scored(project: Project, model: NamedModel, split: str) -> _Scored | None:
    """The model on the rows; None if there are no val rows."""
    try:
        rows = rows_to_score(project, split)
    except DataError:
        if split != "val":
            raise
        return None
    found = evaluated_model(project, model.name, rows)
    probs = found.decision.probs(found.logits)
    predicted = Predicted(rows=rows, probs=probs, labels=found.decision.labels(probs))
    return _Scored(rows=rows, found=found, predicted=predicted, alone=alone_on(project, model, rows))


def _findings(project: Project) -> Findings:
    try:
        return shown_findings(project, read_audit(project))
    except DataError as error:
        return shown_findings(project, None, str(error))


def _state(project: Project, model: NamedModel) -> str:
    return "current" if model.run is None else state_of(project, model.run)


def _badges(project: Project, model: NamedModel, scored: _Scored | None, split: str) -> tuple[tuple[str, str], ...]:
    state = _state(project, model)
    badges = [(state, "good" if state == "current" else "bad")]
    if model.run is not None and model.run.record.get("transductive"):
        badges.append(("transductive: trained on unlabelled rows, too", "warn"))
    if scored is None:
        return (*badges, ("no val rows", "warn"))
    n = len(scored.found.trained)
    badges += [(f"in-sample for {n:,} of {counted(len(scored.rows), 'row')}", "bad")] if n else []
    return (*badges, (counted(len(scored.rows), f"{split} row"), ""))


def _tiles(project: Project, scored: _Scored | None) -> tuple[Tile, ...]:
    if scored is None:
        return ()
    metrics, metric = scored.found.metrics, project.config.metric.replace("-", "_")
    of = metrics.scores
    details = {
        "samples_f1": f"95 % interval {figure(metrics.low)} to {figure(metrics.high)}",
        "map": f"± {figure(metrics.map_spread)}",
        "macro_f1": "mean over classes",
        "micro_f1": "all labels together",
    }
    order = sorted(details, key=lambda name: name != metric)
    tiles = [Tile(title=metric_title(name), value=figure(getattr(of, name)), detail=details[name]) for name in order]
    exact = Tile(title="subset accuracy", value=figure(of.label_set_accuracy), detail="rows with every label right")
    return (*tiles, exact, Tile(title="calibration error", value=figure(metrics.ece), detail="of probabilities"))


def _about_section(project: Project, model: NamedModel) -> Section:
    """What was trained on what."""
    parts = part_table(project, model)
    blocks: list[Block | None] = [
        Facts(pairs=tuple(model_facts(project, model))),
        None if parts is None else PageTable(name="", table=parts, caption="The rows that each part has seen"),
    ]
    if model.run is not None and model.run.kind == "ensemble":
        weights = weight_table(model.run.members, model.run.record.get("bias"), model.run.classes)
        blocks.append(PageTable(name="weights", table=weights, caption="Weights of the members"))
    return Section.of(
        "model", "What was trained on what", [*blocks, Heading(text="Data"), Facts(pairs=tuple(data_facts(project)))]
    )


def _metric_sections(project: Project, model: NamedModel, scored: _Scored | None, split: str) -> list[Section]:
    if scored is None:
        text = Text(
            text="There are no labelled val rows, so there are no metrics. Set [split] val in mmfeat.toml and run: mmfeat init",
            kind="warn",
        )
        return [Section.of("metrics", "Metrics", [text])]
    found, classes = scored.found, project.manifest.classes
    rows = counted(len(scored.rows), f"{split} row")
    labels = project.manifest.labels[scored.rows]
    rule = found.decision if found.threshold is None else found.threshold.rule
    threshold = np.asarray(rule.threshold, np.float64)
    threshold = np.broadcast_to(threshold if threshold.ndim < 2 else threshold.mean(0), len(classes))
    f1_alone = {one.name: scores(labels, one.predicted, one.probs).class_f1 for one in scored.alone}
    return [
        _metrics_section(project, model, scored, split, rows),
        class_section(found.metrics, classes, threshold, rows=rows, alone=f1_alone if len(f1_alone) > 1 else None),
        curve_section(labels, found.logits, scored.predicted.probs, metrics=found.metrics, classes=classes),
        pair_section(labels, scored.predicted.labels, classes),
    ]


def _metrics_section(project: Project, model: NamedModel, scored: _Scored, split: str, rows: str) -> Section:
    lines, cheap = metric_lines(project, model, scored.found, scored.rows, split=split)
    what = "epochs and rounds" if model.run is not None and model.run.kind == "selftrain" else "epochs"
    uses = {model.name: lineage_of(project, model.name).use_of(project.manifest.ids[scored.rows])}
    blocks: list[Block] = [_warning(scored, split)] if scored.found.trained else []
    blocks.append(metric_page_table(lines, rows=rows, subjects=[model.name], baselines=cheap))
    note = about_metrics(MetricRow.of(model.name, scored.found.metrics), about_selection(uses, what))
    blocks += [Text(text=line) for line in note.splitlines()]
    if (report := scored.found.threshold) is not None:
        blocks += [Text(text=line) for line in (report.line, *report.hints, report.typed) if line]
    if split == "val":
        tested = len(project.manifest.rows("test"))
        publish = ": mmfeat report --split test" if tested else ", set [split] test before you start."
        blocks.append(Text(text=f"Runs are selected on val rows. For a figure to publish{publish}"))
    return Section.of("metrics", "Metrics beside baselines", blocks)


def _warning(scored: _Scored, split: str) -> Text:
    n, of = len(scored.found.trained), counted(len(scored.rows), f"{split} row")
    return Text(
        text=f"In-sample: the model was trained on {n:,} of {of}. These metrics show what it remembers, and are no result.",
        kind="bad",
    )


def _rounds(project: Project, model: NamedModel) -> Section | None:
    if model.run is None or model.run.kind != "selftrain":
        return None
    record = model.run.record
    judged = about_judged(project.config.selftrain) if record.get("policy") == "paper" else "a small MLP"
    return rounds_section(record["rounds"], metric=record["metric"], best=record["best_round"], judged=judged)


def _modality_section(project: Project, scored: _Scored, picks: RowPicks, samples: Samples) -> Section:
    """Where the encoders disagree."""
    title, alone = "Where modalities disagree", scored.alone
    if len(alone) < 2:
        one = (
            f"only {alone[0].name} has unimodal predictions"
            if alone
            else "no encoder of the model has unimodal predictions"
        )
        return Section.of("modalities", title, [Text(text=f"Nothing to compare: {one}.")])
    labels = project.manifest.labels[scored.rows]
    cards = tuple(samples.card(row, reason) for row, reason in picks.disagreeing)
    blocks: list[Block | None] = [
        Text(text="The prediction of each encoder alone, by its linear probe at 0.5."),
        found_by_table(labels, scored.predicted.labels, alone),
        Heading(text="Rows about which the encoders disagree most"),
        Gallery(cards=cards) if cards else Text(text="None."),
    ]
    return Section.of("modalities", title, blocks)
