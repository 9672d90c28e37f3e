"""Outliers: rows that are far from all others, by the mean cosine distance to their nearest rows."""

from __future__ import annotations

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.common.text import counted, shown

FAR = 3.0  # interquartile ranges above the third quartile: Tukey's far outliers
_LEAST = 50  # rows of which outliers can be told
_TINY = 1e-6


@register_check("outlier", "rows far from all others")
def find_outliers(given: AuditInput) -> CheckResult:
    """Rows that are outliers by the embeddings of any encoder; the score is the lowest, as in cleanlab exp(-d / median)."""
    scores, details, lines = np.full(given.n_samples, np.nan), {}, []
    for name in given.embeddings:
        rows, distances = mean_distances(given, name)
        if len(rows) < _LEAST:
            continue
        low, high = np.percentile(distances, [25, 75])
        limit, usual = max(high + FAR * (high - low), _TINY), float(np.median(distances))
        quality = np.exp(-distances / max(usual, _TINY))
        scores[rows] = np.fmin(scores[rows], quality)
        far = np.flatnonzero(distances > limit)
        if len(far):
            lines.append(f"{counted(len(far), 'row')} by encoder {name}, at a mean cosine distance above {limit:.2f}")
        for at in far.tolist():
            text = f"distance {distances[at]:.2f} by encoder {shown(name)}, usually {usual:.2f}"
            details.setdefault(int(rows[at]), []).append(text)
    if np.isnan(scores).all():
        return CheckResult(skipped=f"needs embeddings of {_LEAST} rows")
    found = [
        Finding(
            check="outlier",
            id=given.ids[row],
            score=float(scores[row]),
            detail="; ".join(details[row]),
            given=given.given(row),
        )
        for row in sorted(details, key=lambda row: scores[row])
    ]
    return CheckResult(findings=tuple(found), lines=tuple(lines), scores=scores)


def mean_distances(given: AuditInput, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows with distinct samples `(n,)`, and the mean cosine distance of each to its nearest others, `(n,)` in [0, 2]."""
    found = given.nearest(name)
    there = found.found.rows >= 0
    cosines = np.where(there, found.found.cosines, 0).astype(np.float64)
    return found.rows, np.clip(1 - cosines.sum(1) / np.maximum(there.sum(1), 1), 0, 2)
