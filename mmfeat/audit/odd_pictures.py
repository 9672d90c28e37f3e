"""Odd pictures: of one colour, tiny, or much longer than wide."""

from __future__ import annotations

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.common.text import counted
from mmfeat.store.thumbnail_store import PictureStatistics

SPREAD, SIDE, RATIO = (
    2.0,
    32,
    0.25,
)  # less is odd: deviation of the colours, shorter side in pixels, shorter by longer side


@register_check("odd", "pictures of one colour, tiny ones, extreme shapes")
def find_odd_pictures(given: AuditInput) -> CheckResult:
    """Pictures below a limit; a score of 0.5 is at the limit."""
    pictures = given.pictures
    if pictures is None or not pictures.known.any():
        return CheckResult(skipped="needs readable images")
    rows = np.flatnonzero(pictures.known)
    parts = _scores(pictures, rows)
    scores = np.full(given.n_samples, np.nan)
    scores[rows] = parts.min(0)
    odd = np.flatnonzero(parts.min(0) < 0.5)
    odd = odd[np.argsort(scores[rows[odd]], kind="stable")]
    found = tuple(
        Finding(
            check="odd",
            id=given.ids[rows[at]],
            score=float(scores[rows[at]]),
            detail=_detail(pictures, rows[at], int(parts[:, at].argmin())),
            given=given.given(rows[at]),
        )
        for at in odd.tolist()
    )
    n = [int((parts[part] < 0.5).sum()) for part in range(3)]
    line = f"{n[0]:,} of one colour, {n[1]:,} with a side below {SIDE} pixels, {n[2]:,} more than {1 / RATIO:.0f} times as long as wide"
    return CheckResult(
        findings=found, lines=(f"{counted(len(found), 'picture')}: {line}",) if found else (), scores=scores
    )


def _scores(pictures: PictureStatistics, rows: np.ndarray) -> np.ndarray:
    """Scores of colours, size and shape, `(3, n)` float64 in [0, 1]."""
    width, height = pictures.width[rows].astype(np.float64), pictures.height[rows].astype(np.float64)
    shorter, longer = np.minimum(width, height), np.maximum(np.maximum(width, height), 1)
    values = (pictures.spread[rows] / SPREAD, shorter / SIDE, shorter / longer / RATIO)
    return np.clip(np.stack(values) / 2, 0, 1)


def _detail(pictures: PictureStatistics, row: int, part: int) -> str:
    size = f"{pictures.width[row]} x {pictures.height[row]} pixels"
    return (f"one colour, {size}", size, size)[part]
