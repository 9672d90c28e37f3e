"""The results of an audit: tables for the terminal, audit.csv with cleanlab's column names, and the table to review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmfeat.audit.checks import AuditInput
from mmfeat.audit.findings import CheckResult, Finding, Summary
from mmfeat.common.csv_text import csv_text
from mmfeat.common.labels import label_names
from mmfeat.data.review_table import nothing_mark
from mmfeat.report.table_layout import Table, number, outside, table

SHOWN = 10  # rows of a check's own table on the screen
_SETS = "near_duplicate"  # the check whose related rows are a column in cleanlab's table


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Findings of each check, and why a check was skipped."""
    rows = [
        [one.title, one.n_findings, one.n_samples, f"skipped: {one.skipped}"]
        if one.skipped
        else [one.title, one.n_findings, one.n_samples]
        for one in summaries
    ]
    return table(["check", "findings", "rows"], rows, title="checks", keep=["findings", "rows"])


def check_table(summary: Summary) -> Table | None:
    """The further results of a check; None without any."""
    if not summary.table:
        return None
    head = [name.replace("_", " ") for name in summary.table[0]]
    rows = [[_cell(value) for value in row.values()] for row in summary.table]
    return table(head, rows, title=summary.title, most=SHOWN)


def _cell(value: Any) -> Any:
    if isinstance(value, float) or value is None:
        return number(value, 4)
    return value if isinstance(value, int) else outside(value)


def audit_csv(given: AuditInput, results: Mapping[str, CheckResult], *, separator: str) -> str:
    """CSV text: for each row and each check whether it is a finding, and its score; the lower, the worse.

    Columns are named as cleanlab's Datalab names them. Checks that were skipped have no columns.
    """
    names = {name: result for name, result in results.items() if not result.skipped}
    predicted = given.out_of_fold.predicted if given.out_of_fold is not None else None
    columns: dict[str, Sequence[Any]] = {
        "id": given.ids.tolist(),
        "split": given.split.tolist(),
        "given_label": [separator.join(labels) for labels in label_names(given.labels, given.classes)],
    }
    if predicted is not None:
        columns["predicted_label"] = [separator.join(labels) for labels in label_names(predicted, given.classes)]
    for name, result in names.items():
        found = {finding.id for finding in result.findings}
        columns[f"is_{name}_issue"] = [sample in found for sample in columns["id"]]
        columns[f"{name}_score"] = _scores(given, result)
        if name == _SETS:
            sets = {finding.id: finding.related for finding in result.findings}
            columns[f"{name}_sets"] = ["; ".join(sets.get(sample, ())) for sample in columns["id"]]
    return csv_text(list(columns), zip(*columns.values(), strict=True))


def _scores(given: AuditInput, result: CheckResult) -> list[str]:
    """Scores as text, blank for a row without one; those of the findings, if the check scores no rows."""
    scores = result.scores
    if scores is None:
        worst: dict[str, float] = {}
        for finding in result.findings:
            worst[finding.id] = min(finding.score, worst.get(finding.id, 1.0))
        scores = np.array([worst.get(sample, 1.0) for sample in given.ids.tolist()])
    return ["" if np.isnan(score) else f"{score:.6g}" for score in scores.tolist()]


def review_columns(
    findings: Sequence[Finding],
    places: Mapping[str, str],
    captions: Mapping[str, str],
    *,
    classes: Sequence[str],
    separator: str,
) -> dict[str, list[str]]:
    """The columns of the table to review: a row for each sample whose labels are questioned, the worst first.

    Parameters
    ----------
    findings : sequence of Finding
        Those with proposed labels are shown; of one sample together.
    places, captions : dict of str to str
        Path of the image and caption, by id.
    """
    by_sample: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.score):
        if finding.proposed is not None:
            by_sample.setdefault(finding.id, []).append(finding)
    none, firsts = nothing_mark(classes), [each[0] for each in by_sample.values()]

    def joined(labels: tuple[str, ...] | None) -> str:
        return "" if labels is None else separator.join(labels) or none

    return {
        "id": list(by_sample),
        "image": [places[sample] for sample in by_sample],
        "caption": [captions[sample] for sample in by_sample],
        "given": [joined(first.given) for first in firsts],
        "model": [joined(first.proposed) for first in firsts],
        "probabilities": ["; ".join(_probability(one) for one in each) for each in by_sample.values()],
        "why": ["; ".join(one.detail for one in each) for each in by_sample.values()],
    }


def _probability(finding: Finding) -> str:
    """The probability of the class of a label error, as in the table of a review; the score of other findings."""
    if not finding.class_name:
        return f"{finding.score:.2f}"
    is_given = finding.class_name in (finding.given or ())
    return f"{finding.class_name} ({finding.score if is_given else 1 - finding.score:.2f})"
