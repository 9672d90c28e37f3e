"""Everything that a person may look at in a project: findings of the audit, and the queue of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.audit.findings import Finding
from mmfeat.common.errors import DataError, MmfeatError, RunError
from mmfeat.common.labels import has_label, split_labels
from mmfeat.common.spelling import normal_name
from mmfeat.common.text import quoted
from mmfeat.data.review_items import Reason, ReviewItem
from mmfeat.inference.review_queue import (
    about_in_sample,
    given_labels,
    image_places,
    predictions_of,
    queue_items,
    review_queue,
    unreviewed,
)
from mmfeat.project.audit_record import AuditRecord, read_audit
from mmfeat.project.named_models import find_model
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample

ANSWERED = Reason(kind="answered before", text="answered before, and not applied yet")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewWork:
    """Rows to look at, each once.

    Attributes
    ----------
    items : list of ReviewItem
        Rows with labels that the audit questions, then the queue of the run, the other findings of the audit, and rows that
        were answered before.
    run : str
        The run whose predictions are shown; empty without one.
    notes : list of str
        What the user should know about the rows.
    """

    items: list[ReviewItem]
    run: str
    notes: list[str]


def review_work(project: Project, run: str | None, *, n: int, split: str, answered: Sequence[str] = ()) -> ReviewWork:
    """The findings of the last audit, and up to n rows that a run ranks; rows of test and in corrections.csv are left out.

    Parameters
    ----------
    answered : sequence of str
        Ids of rows that stay in the work because their answers are not applied yet.

    Raises
    ------
    MmfeatError
        There is nothing to look at: what `review_queue` raises.
    """
    audit, notes = read_audit(project), []
    found, titles = _findings(project, audit)
    if audit is not None and audit.stale:
        notes.append(f"The audit is out of date: {audit.stale}. Run: mmfeat audit")
    queue = None
    try:
        queue = review_queue(project, run, n=n, split=split)
    except (DataError, RunError) as error:
        if not found and not answered:
            raise
        notes.append(f"No row of a queue: {error}")
    if queue is not None and (known := in_sample(project, queue.model.name, queue.compared)):
        notes.append(f"{known[0].upper()}{known[1:]}: {about_in_sample(split)}")
    notes += _about_separator(project)
    name = queue.model.name if queue is not None else audit.run if audit is not None else ""
    audited = _of_findings(project, found, titles, run=name)
    items = [item for item in audited if _questions_labels(item)]
    if queue is not None:
        items += queue_items(project, queue)
    items += audited
    items += _of_rows(project, [(sample, [ANSWERED], None) for sample in answered])
    return ReviewWork(items=merged(items), run=name, notes=notes)


def _about_separator(project: Project) -> list[str]:
    """A note if corrections.csv cannot hold a class because its name has the separator of labels in it."""
    separator = project.config.data.separator
    names = project.manifest.classes
    wrong = next((name for name in names if split_labels(name, separator) != [normal_name(name)]), None)
    if wrong is None:
        return []
    what = f"Label {quoted(wrong)} has the separator {separator!r} in its name, so corrections.csv cannot hold it"
    return [f"{what}. Set another separator under [data] in mmfeat.toml before you begin"]


def merged(items: Iterable[ReviewItem]) -> list[ReviewItem]:
    """Each row once, at its first place, with all reasons and proposals."""
    found: dict[str, ReviewItem] = {}
    for item in items:
        if (first := found.get(item.id)) is None:
            found[item.id] = item
        elif item.reasons != (ANSWERED,):
            found[item.id] = dataclasses.replace(
                first,
                reasons=tuple(dict.fromkeys((*first.reasons, *item.reasons))),
                proposed=item.proposed if first.proposed is None else first.proposed,
                probabilities=first.probabilities or item.probabilities,
            )
    return list(found.values())


def _findings(project: Project, audit: AuditRecord | None) -> tuple[list[Finding], dict[str, str]]:
    """The findings about rows that may be reviewed, and the titles of the checks."""
    if audit is None or not audit.findings:
        return [], {}
    manifest = project.manifest
    open_rows = unreviewed(project, np.flatnonzero((manifest.split != "test") | ~has_label(manifest.labels)))
    ids = set(manifest.ids[open_rows].tolist())
    return [one for one in audit.findings if one.id in ids], {one.check: one.title for one in audit.summaries}


def _questions_labels(item: ReviewItem) -> bool:
    """Whether a finding is about the label of a class, and not about the row or its copies."""
    return item.proposed is not None and any(reason.class_name for reason in item.reasons)


def _of_findings(
    project: Project, findings: Sequence[Finding], titles: dict[str, str], *, run: str
) -> list[ReviewItem]:
    by_id: dict[str, list[Finding]] = {}
    for finding in findings:
        by_id.setdefault(finding.id, []).append(finding)
    asked = [
        (
            sample,
            [
                Reason(
                    kind=titles.get(one.check, one.check),
                    text=one.detail or titles.get(one.check, one.check),
                    class_name=one.class_name,
                    related=one.related,
                )
                for one in found
            ],
            _changes(found),
        )
        for sample, found in by_id.items()
    ]
    return _of_rows(project, asked, run=run)


def _changes(findings: Sequence[Finding]) -> tuple[set[str], set[str]] | None:
    """The labels that a row's findings propose to add and to remove, by the first check that proposes any; None if none does."""
    proposing = [one for one in findings if one.proposed is not None]
    if not proposing:
        return None
    first = [one for one in proposing if one.check == proposing[0].check]
    proposals = [(set(one.given or ()), set(one.proposed)) for one in first]
    added = set().union(*(proposed - given for given, proposed in proposals))
    return added, set().union(*(given - proposed for given, proposed in proposals)) - added


def _of_rows(
    project: Project, asked: Sequence[tuple[str, list[Reason], tuple[set[str], set[str]] | None]], *, run: str = ""
) -> list[ReviewItem]:
    """Items of rows by id, with reasons, and what to add to and remove from their labels."""
    manifest = project.manifest
    at = {sample: row for row, sample in enumerate(manifest.ids.tolist())}
    asked = [one for one in asked if one[0] in at]
    rows = np.array([at[sample] for sample, _, _ in asked], dtype=np.int64)
    given, images = given_labels(manifest.labels[rows], manifest.classes), image_places(project, rows)
    likely = _likely(project, run, rows)
    items = []
    for k, (sample, reasons, changes) in enumerate(asked):
        proposed = None
        if changes is not None:
            wanted = (set(given[k] or ()) | changes[0]) - changes[1]
            proposed = tuple(name for name in manifest.classes if name in wanted)
        items.append(
            ReviewItem(
                id=sample,
                row=int(rows[k]),
                image=images[k],
                caption=manifest.captions[rows[k]],
                split=manifest.split[rows[k]] if given[k] is not None else "unlabelled",
                given=given[k],
                proposed=proposed,
                reasons=tuple(reasons),
                probabilities=likely.get(int(rows[k]), {}),
            )
        )
    return items


def _likely(project: Project, run: str, rows: np.ndarray) -> dict[int, dict[str, float]]:
    """Probabilities of predicted and likely classes by row; none where the run cannot be read."""
    if not run or not len(rows):
        return {}
    try:
        return predictions_of(project, find_model(project, run), np.unique(rows))
    except MmfeatError:
        return {}
