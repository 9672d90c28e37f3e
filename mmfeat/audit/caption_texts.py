"""Captions that say nothing: empty ones, and one caption for many samples, such as `no description`."""

from __future__ import annotations

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.common.text import counted

MANY = 10  # rows with one caption: ordinary captions of similar photographs repeat a few times
_NAMED = 5  # related rows of a finding


@register_check("empty_caption", "rows without a caption")
def find_empty_captions(given: AuditInput) -> CheckResult:
    """Rows without a caption, if most rows have one."""
    has = given.has.get("text")
    if has is None or not has.any():
        return CheckResult(skipped="no row has a caption")
    rows = np.flatnonzero(~has)
    line = f"{counted(len(rows), 'row')} of {given.n_samples:,} {'has' if len(rows) == 1 else 'have'} no caption"
    if 2 * len(rows) > given.n_samples:
        return CheckResult(lines=(f"{line}; they are not listed, as most rows have none",))
    found = [
        Finding(check="empty_caption", id=given.ids[row], score=0.0, detail="no caption", given=given.given(row))
        for row in rows.tolist()
    ]
    return CheckResult(findings=tuple(found), lines=(line,) if found else (), scores=has.astype(np.float64))


@register_check("repeated_caption", "one caption for many rows")
def find_repeated_captions(given: AuditInput) -> CheckResult:
    """Captions that `MANY` rows or more share; the score of a row is 1 divided by their number."""
    has, keys = given.has.get("text"), given.keys.get("text")
    if has is None or keys is None or not has.any():
        return CheckResult(skipped="no row has a caption")
    rows = np.flatnonzero(has)
    _, at, n = np.unique(
        np.ascontiguousarray(keys[rows]).view(f"V{keys.shape[1]}").ravel(), return_inverse=True, return_counts=True
    )
    scores = np.full(given.n_samples, np.nan)
    scores[rows] = 1 / n[at]
    order = np.argsort(at, kind="stable")
    starts = np.searchsorted(at[order], np.arange(len(n)))
    found = []
    for number in sorted(np.flatnonzero(n >= MANY).tolist(), key=lambda number: -n[number]):
        same = given.ids[rows[order[starts[number] : starts[number] + n[number]]]].tolist()
        for row in rows[order[starts[number] : starts[number] + n[number]]].tolist():
            others = tuple(one for one in same[: _NAMED + 1] if one != given.ids[row])[:_NAMED]
            detail = f"its caption is that of {counted(len(same) - 1, 'other row')}"
            found.append(
                Finding(
                    check="repeated_caption",
                    id=given.ids[row],
                    score=float(scores[row]),
                    detail=detail,
                    related=others,
                    given=given.given(row),
                )
            )
    line = (
        f"{counted(len(found), 'row')} with {counted(int((n >= MANY).sum()), 'caption')} that {MANY} rows or more share"
    )
    return CheckResult(findings=tuple(found), lines=(line,) if found else (), scores=scores)
