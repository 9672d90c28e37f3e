"""Leakage: rows of val or test that have a near-duplicate among the rows that models are trained or selected on.

Metrics on such rows are too good. Images decide; in a project without images, captions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.copy_search import Copies, caption_copies, picture_copies
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import counted, shown
from mmfeat.metrics import Outcome, subset_difference
from mmfeat.metrics.bootstrap import RESAMPLES

METRICS = ("samples_f1", "macro_f1", "map")
_SEEN_BEFORE = {"val": ("train",), "test": ("train", "val")}  # the splits that a row must have no copy in
_NAMED = 10  # related rows of a finding
_ROWS = 200_000_000  # cells x resamples: above, fewer resamples are drawn


def leaked_rows(cluster: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Rows of val with a copy in train, and rows of test with a copy in train or val, `(N,)` bool.

    Parameters
    ----------
    cluster : np.ndarray
        `(N,)` int64: equal for copies, -1 for a row without one.
    split : np.ndarray
        `(N,)` object: `train`, `val`, `test`, `unlabelled`.
    """
    leaked = np.zeros(len(cluster), dtype=bool)
    for name, before in _SEEN_BEFORE.items():
        there = np.unique(cluster[np.isin(split, before) & (cluster >= 0)])
        leaked |= (split == name) & np.isin(cluster, there)
    return leaked


def metrics_without(
    labels: np.ndarray, outcome: Outcome, leaked: np.ndarray, *, n: int = RESAMPLES
) -> tuple[dict[str, Any], ...]:
    """How metrics change if leaked rows are left out, as rows of a table: metric, difference, low, high.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8.
    leaked : np.ndarray
        `(N,)` bool.
    n : int
        Number of bootstrap resamples.
    """
    found = subset_difference(labels, outcome, ~leaked, n=n, names=METRICS)
    return tuple(
        {"metric": name, "difference": difference, "low": low, "high": high}
        for name, (difference, low, high) in found.items()
    )


@register_check("leakage", "near-duplicates across splits")
def find_leakage(given: AuditInput) -> CheckResult:
    """Rows of val and test with a near-duplicate in an earlier split, and how far metrics fall without them."""
    copies, what = picture_copies(given), "image"
    if copies is None:
        copies, what = caption_copies(given), "caption"
    if copies is None:
        return CheckResult(skipped="no row has a readable image or a caption")
    if not np.isin(given.split, list(_SEEN_BEFORE)).any():
        return CheckResult(skipped="there is no val and no test")
    leaked = leaked_rows(copies.cluster, given.split)
    rows = np.flatnonzero(leaked)
    rows = rows[np.argsort(-copies.similarity[rows], kind="stable")]
    table, about = _metrics(given, leaked)
    scores = np.where(leaked, 1 - copies.similarity, np.where(np.isin(given.split, list(_SEEN_BEFORE)), 1.0, np.nan))
    clusters = {int(copies.cluster[one[0]]): one for one in copies.clusters()}
    return CheckResult(
        findings=tuple(_finding(given, copies, row, clusters[copies.cluster[row]]) for row in rows.tolist()),
        lines=(*_lines(given, leaked, what), *about),
        table=table,
        scores=scores.astype(np.float64),
    )


def _finding(given: AuditInput, copies: Copies, row: int, same: np.ndarray) -> Finding:
    before = same[np.isin(given.split[same], _SEEN_BEFORE[given.split[row]])]
    first = int(before[0])
    return Finding(
        check="leakage",
        id=given.ids[row],
        score=1 - float(copies.similarity[row]),
        detail=f"{given.split[row]} row with a near-duplicate in {given.split[first]}: {shown(given.ids[first], 40)}",
        related=tuple(given.ids[other] for other in before[:_NAMED]),
        given=given.given(row),
    )


def _lines(given: AuditInput, leaked: np.ndarray, what: str) -> list[str]:
    lines = []
    for name, before in _SEEN_BEFORE.items():
        here = given.split == name
        if n := int((leaked & here).sum()):
            has = "has" if n == 1 else "have"
            lines.append(
                f"{n:,} of {counted(int(here.sum()), f'{name} row')} {has} a near-duplicate {what} in {' or '.join(before)}"
            )
    if lines and what == "image":
        lines.append("to keep copies in one split: mmfeat audit --apply groups, then mmfeat init")
    return lines


def _metrics(given: AuditInput, leaked: np.ndarray) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The table of metrics without leaked val rows, and a line about it; both empty if they are unknown."""
    model = given.model
    if model is None or model.predicted is None or not (leaked & model.known).any():
        return (), ()
    rows = np.flatnonzero(model.known & (given.split == "val"))
    outcome = Outcome(model.predicted[rows], model.logits[rows], model.logits[rows])
    n = int(np.clip(_ROWS // max(1, given.labels[rows].size), 100, RESAMPLES))
    try:
        table = metrics_without(given.labels[rows], outcome, leaked[rows], n=n)
    except MmfeatError:  # every val row has a copy
        return (), (f"no val row is left to measure {shown(model.name)} on",)
    changes = [
        f"{_TITLES[one['metric']]} {one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]" for one in table
    ]
    return table, (f"without the leaked val rows, {shown(model.name)}: {', '.join(changes)}",)


_TITLES = {"samples_f1": "samples F1", "macro_f1": "macro F1", "map": "mAP"}
