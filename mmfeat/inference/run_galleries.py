"""The galleries of a report: which rows they show, and their sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.audit.findings import Finding
from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import has_label
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.heads.knn import drawn
from mmfeat.inference.fitted_rules import rule_for_rows
from mmfeat.inference.gallery_rows import ClassErrors, Pick, most_disagreeing, most_uncertain, surest_errors
from mmfeat.inference.logits import model_logits
from mmfeat.inference.page_pictures import Pictures
from mmfeat.project.audit_record import AuditRecord
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample
from mmfeat.report.html.blocks import Block, Card, Choice, Gallery, Heading, Section, Text
from mmfeat.report.html.cards import Predicted, Samples
from mmfeat.report.html.pair_sections import Unimodal

SHOWN, FINDINGS = 24, 10  # cards of a gallery, and of one check of an audit
_RANKED, _CELLS = 50_000, 20_000_000  # unlabelled rows, and their labels, that are ranked; of more, a sample by ids
_TWINS = 2  # further samples of a finding that are shown beside it


@dataclass(frozen=True, kw_only=True, eq=False)
class RowPicks:
    """The rows of the galleries, by their numbers in the manifest.

    Attributes
    ----------
    errors : list of (ClassErrors, list of int)
        The errors of each class, and their rows.
    uncertain, disagreeing : list of (int, str)
        Rows with the reason.
    of : str
        The rows that `uncertain` is of, such as `4,000 unlabelled rows`.
    problem : str
        Why there are no uncertain rows; empty if there are.
    predicted : list of Predicted
        The predictions of picked rows.
    """

    errors: list[tuple[ClassErrors, list[int]]]
    uncertain: list[tuple[int, str]]
    disagreeing: list[tuple[int, str]]
    of: str
    problem: str
    predicted: list[Predicted]

    @property
    def rows(self) -> list[int]:
        """All rows, in the order in which their pictures are kept."""
        others = [row for row, _ in (*self.disagreeing, *self.uncertain)]
        return [row for _, rows in self.errors for row in rows] + others


def picked_rows(
    project: Project,
    model: NamedModel,
    evaluated: Predicted | None,
    threshold: np.ndarray | float,
    alone: Sequence[Unimodal],
) -> RowPicks:
    """Select the rows of all galleries but those of the audit.

    Parameters
    ----------
    evaluated : Predicted or None
        The predictions of the labelled rows of the report; None without such rows.
    threshold : np.ndarray or float
        Their thresholds, broadcast to `(n, K)`.
    alone : sequence of Unimodal
        The encoders' predictions of the same rows.
    """
    manifest, errors, disagreeing, predicted = project.manifest, [], [], []
    if evaluated is not None:
        labels, rows = manifest.labels[evaluated.rows], evaluated.rows
        numbers = id_numbers(manifest.ids[rows])
        for one in surest_errors(labels, evaluated.probs, evaluated.labels, manifest.classes):
            errors.append((one, [int(rows[pick.at]) for pick in one.picks]))
        if len(alone) > 1:
            by_name, known = {one.name: one.probs for one in alone}, {one.name: one.known for one in alone}
            picks = most_disagreeing(by_name, known, manifest.classes, numbers=numbers, n=SHOWN)
            disagreeing = _placed(picks, rows)
        predicted.append(evaluated)
    uncertain, of, problem = _uncertain(project, model, evaluated, threshold, predicted)
    return RowPicks(
        errors=errors, uncertain=uncertain, disagreeing=disagreeing, of=of, problem=problem, predicted=predicted
    )


def _placed(picks: Sequence[Pick], rows: np.ndarray) -> list[tuple[int, str]]:
    return [(int(rows[pick.at]), pick.reason) for pick in picks]


def _uncertain(
    project: Project,
    model: NamedModel,
    evaluated: Predicted | None,
    threshold: np.ndarray | float,
    predicted: list[Predicted],
) -> tuple[list[tuple[int, str]], str, str]:
    """The most uncertain unlabelled rows, or labelled ones if there are no others; their predictions are added."""
    manifest, of = project.manifest, "unlabelled row"
    most = min(_RANKED, max(SHOWN, _CELLS // max(1, len(manifest.classes))))
    rows = drawn(manifest.rows("unlabelled"), manifest.ids, most)
    if len(rows):
        try:
            found, threshold = predictions_of(project, model, rows)
        except MmfeatError as error:
            return [], "", str(error)
        predicted.append(found)
    elif evaluated is not None:
        found, of = evaluated, "row of the metrics"
    else:
        return [], "", "there are no rows to predict"
    if not len(found.rows):
        return [], "", "no unlabelled row has an input of the model"
    numbers = id_numbers(manifest.ids[found.rows])
    picks = most_uncertain(found.probs, threshold, manifest.classes, numbers=numbers, n=SHOWN)
    return _placed(picks, found.rows), counted(len(found.rows), of, "rows of the metrics" if " of " in of else ""), ""


def predictions_of(project: Project, model: NamedModel, rows: np.ndarray) -> tuple[Predicted, np.ndarray | float]:
    """The predictions of the rows with an input of the model, and their thresholds."""
    found = model_logits(project, model, rows)
    rows, logits = rows[found.known], found.logits[found.known]
    decision = rule_for_rows(project, model.name, rows)
    probs = decision.probs(logits)
    return Predicted(rows=rows, probs=probs, labels=decision.labels(probs)), decision.threshold


def samples_of(
    project: Project, pictures: Pictures, picks: RowPicks | None = None, *, captions: bool = True
) -> Samples:
    """What cards show: all rows, with predictions of those that were picked."""
    manifest = project.manifest
    texts = manifest.captions if captions else np.full(manifest.n_samples, "", dtype=object)
    predicted = {}
    for one in picks.predicted if picks is not None else ():
        at = np.flatnonzero(np.isin(one.rows, picks.rows)).tolist()
        predicted |= {int(one.rows[i]): (one.probs[i], one.labels[i]) for i in at}
    return Samples(
        ids=manifest.ids,
        captions=texts,
        labels=manifest.labels,
        classes=manifest.classes,
        pictures=pictures.jpegs,
        missing=pictures.missing,
        predicted=predicted,
    )


def error_section(picks: RowPicks, samples: Samples, notes: Sequence[str]) -> Section:
    """The surest errors, class by class."""
    blocks: list[Block] = [
        Text(
            text="The errors that the model is surest of, for the classes with most errors. Some are errors of the given labels. Labels: ✓ right, − missed, ✗ wrong, each with its probability."
        ),
        *(Text(text=note, kind="note") for note in notes if note),
    ]
    if not picks.errors:
        blocks.append(Text(text="There are no errors on these rows."))
    else:
        blocks.append(Choice(group="errors", label="Class", names=tuple(one.name for one, _ in picks.errors)))
    for one, rows in picks.errors:
        cards = [samples.card(row, pick.reason) for row, pick in zip(rows, one.picks, strict=True)]
        detail = f"{one.n_missed:,} missed, {one.n_wrong:,} wrongly predicted"
        blocks.append(Gallery(cards=tuple(cards), name=one.name, detail=detail, group="errors"))
    return Section.of("errors", "Surest errors by class", blocks)


def uncertain_section(picks: RowPicks, samples: Samples) -> Section:
    """The most uncertain rows."""
    if picks.problem:
        return Section.of("uncertain", "Most uncertain", [Text(text=f"None: {picks.problem}.", kind="warn")])
    text = f"Of {picks.of}, those nearest to the threshold, without near-duplicates. To label them: mmfeat review"
    cards = tuple(samples.card(row, reason) for row, reason in picks.uncertain)
    return Section.of("uncertain", "Most uncertain", [Text(text=text), Gallery(cards=cards)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """The findings of the last audit that a report shows: for each check some, with the rows of their samples."""

    record: AuditRecord | None
    problem: str
    shown: dict[str, list[tuple[Finding, list[int]]]]

    @property
    def rows(self) -> list[int]:
        """All rows."""
        return [row for found in self.shown.values() for _, rows in found for row in rows]


def shown_findings(project: Project, record: AuditRecord | None, problem: str = "") -> Findings:
    """The worst findings of each check, with their samples and up to two others."""
    if record is None:
        return Findings(record=None, problem=problem, shown={})
    chosen = {one.check: _different(record.of(one.check))[:FINDINGS] for one in record.summaries}
    wanted = {name for found in chosen.values() for one in found for name in _samples_of_finding(one)}
    row_of = {name: row for row, name in enumerate(project.manifest.ids.tolist()) if name in wanted}
    shown = {
        check: [
            (one, [row_of[name] for name in _samples_of_finding(one) if name in row_of])
            for one in found
            if one.id in row_of
        ]
        for check, found in chosen.items()
    }
    return Findings(record=record, problem=problem, shown=shown)


def _different(found: Sequence[Finding]) -> list[Finding]:
    """The findings without those that are about the same samples as an earlier one: a pair is shown once."""
    first: dict[tuple[str, frozenset[str]], Finding] = {}
    for one in found:
        first.setdefault((one.class_name, frozenset((one.id, *one.related))), one)
    return list(first.values())


def _samples_of_finding(one: Finding) -> tuple[str, ...]:
    return (one.id, *one.related[:_TWINS])


def audit_section(found: Findings, samples: Samples) -> Section:
    """The findings of the last audit, near-duplicates side by side."""
    title = "Audit of the data"
    if found.record is None:
        text = (
            Text(text=found.problem, kind="warn")
            if found.problem
            else Text(text="The data were not audited yet. Run: mmfeat audit")
        )
        return Section.of("audit", title, [text])
    blocks: list[Block] = []
    if found.record.stale:
        blocks.append(Text(text=f"Out of date: {found.record.stale}. Run: mmfeat audit", kind="warn"))
    for one in found.record.summaries:
        blocks.append(Heading(text=f"{one.title[:1].upper()}{one.title[1:]}"))
        lines = [f"Skipped: {one.skipped}"] if one.skipped else [*one.lines] or [counted(one.n_findings, "finding")]
        blocks += [Text(text=line) for line in lines]
        cards = tuple(_finding_cards(found.shown.get(one.check, []), samples))
        if cards:
            blocks.append(Gallery(cards=cards, pairs=any(len(card.members) > 1 for card in cards)))
    return Section.of("audit", title, blocks)


def _finding_cards(found: Sequence[tuple[Finding, list[int]]], samples: Samples) -> Iterator[Card]:
    for one, rows in found:
        first = samples.member(rows[0], one.proposed)
        yield Card(members=(first, *(samples.member(row) for row in rows[1:])), reason=one.detail)


def about_in_sample(project: Project, model: NamedModel, rows: np.ndarray) -> str:
    """How many labelled rows of a gallery the model was trained on, as a sentence; empty if none."""
    labelled = rows[has_label(project.manifest.labels[rows])]
    text = in_sample(project, model.name, labelled) if len(labelled) else ""
    return f"{text[:1].upper()}{text[1:]}: the model has learned their labels." if text else ""
