"""Near-duplicate images and captions: their clusters, and copies whose labels contradict each other."""

from __future__ import annotations

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.copy_search import Copies, caption_copies, picture_copies
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.common.text import counted, shown

_NAMED = 10  # related rows of a finding
_CLASSES = 3  # that a sentence names


@register_check("near_duplicate", "near-duplicate images")
def find_near_duplicates(given: AuditInput) -> CheckResult:
    """Rows whose images are identical or near-duplicates, those with contradictory labels first."""
    copies = picture_copies(given)
    if copies is None:
        return CheckResult(skipped="no row has a readable image")
    return _result(given, copies, "near_duplicate", "image")


@register_check("caption", "near-duplicate captions")
def find_near_captions(given: AuditInput) -> CheckResult:
    """Rows whose captions are equal or nearly so and whose labels contradict each other.

    Equal captions of different images are common, so that rows with equal labels are counted and not listed, and the labels of
    similar captions are not proposed.
    """
    copies = caption_copies(given)
    if copies is None:
        return CheckResult(skipped="no row has a caption")
    return _result(given, copies, "caption", "caption", listed=False)


def contradicting(labels: np.ndarray) -> np.ndarray:
    """The classes of which some rows of `labels (n, K)` are positive and others negative, `(m,)`."""
    return np.flatnonzero((labels == 1).any(0) & (labels == 0).any(0))


def majority(labels: np.ndarray) -> np.ndarray:
    """For each class the label of most rows of `labels (n, K)` int8 with a known one; -1 without a majority."""
    balance = (labels == 1).sum(0) - (labels == 0).sum(0)
    return np.where(balance > 0, 1, np.where(balance < 0, 0, -1)).astype(np.int8)


def _result(given: AuditInput, copies: Copies, check: str, what: str, *, listed: bool = True) -> CheckResult:
    clusters, found, n_torn = copies.clusters(), [], 0
    for rows in clusters:
        labels = given.labels[rows]
        torn = contradicting(labels)
        n_torn += bool(len(torn))
        if len(torn) or listed:
            most = majority(labels) if listed else np.full(labels.shape[1], -1, np.int8)
            found += [
                (not len(torn), _finding(given, copies, check, rows, row=row, torn=torn, most=most))
                for row in rows.tolist()
            ]
    found.sort(key=lambda one: (one[0], one[1].score))
    scores = np.full(given.n_samples, np.nan)
    present = given.has["image" if what == "image" else "text"]
    scores[present] = 1 - copies.similarity[present]
    n_rows = int((copies.cluster >= 0).sum())
    lines = [
        f"{counted(n_rows, 'row')} in {counted(len(clusters), 'cluster')} of near-duplicate {what}s; labels contradict each "
        f"other in {n_torn:,}"
    ]
    if copies.recall < 1:
        lines.append(f"the index of embeddings found {copies.recall:.0%} of the nearest rows of a sample")
    return CheckResult(findings=tuple(one for _, one in found), lines=tuple(lines) if n_rows else (), scores=scores)


def _finding(
    given: AuditInput, copies: Copies, check: str, rows: np.ndarray, *, row: int, torn: np.ndarray, most: np.ndarray
) -> Finding:
    """The finding of one row of a cluster; if most of its copies have other labels, they are proposed."""
    twin = int(copies.nearest[row])
    others = [twin, *(other for other in rows[: _NAMED + 1].tolist() if other not in (row, twin))]
    labels = given.labels[row]
    differing = [k for k in torn.tolist() if labels[k] >= 0]
    changes = {k: int(most[k]) for k in differing if most[k] >= 0 and most[k] != labels[k]}
    detail = f"{'the same as' if copies.similarity[row] == 1 else 'near-duplicate of'} {shown(given.ids[twin], 40)}"
    if differing:
        names = ", ".join(shown(given.classes[k], 30) for k in differing[:_CLASSES])
        detail += f"; labels differ: {names}{' ...' if len(differing) > _CLASSES else ''}"
    return Finding(
        check=check,
        id=given.ids[row],
        score=1 - float(copies.similarity[row]),
        detail=detail,
        related=tuple(given.ids[other] for other in others[:_NAMED]),
        given=given.given(row),
        proposed=given.changed(row, changes) if changes else None,
    )
