"""Samples whose image does not exist or cannot be read, with the reason."""

from __future__ import annotations

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.common.text import counted, shown

_LONGEST = 120  # characters of a reason


@register_check("unreadable", "images that cannot be read")
def find_unreadable(given: AuditInput) -> CheckResult:
    """Rows that name an image without a readable file."""
    has = given.has.get("image")
    if has is None or not has.any():
        return CheckResult(skipped="no row names an image")
    scores = np.where(has, 1.0, np.nan)
    scores[list(given.unreadable)] = 0.0
    found = tuple(
        Finding(
            check="unreadable",
            id=given.ids[row],
            score=0.0,
            detail=shown(why, _LONGEST),
            given=given.given(row),
        )
        for row, why in sorted(given.unreadable.items())
    )
    line = f"{counted(len(found), 'row')} of {int(has.sum()):,}: the image does not exist or cannot be read"
    return CheckResult(findings=found, lines=(line,) if found else (), scores=scores)
