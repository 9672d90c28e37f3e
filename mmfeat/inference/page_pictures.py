"""Pictures of the rows that a page shows, within the size of one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import counted
from mmfeat.project.project import Project
from mmfeat.project.thumbnails import thumbnails
from mmfeat.report.html.cards import NO_PICTURE

MOST_BYTES = 12_000_000  # of JPEG files in a page: a third more as text, so that the page stays below 20 MB
LEFT_OUT = "picture left out"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """JPEG files by row, what stands in place of the others, and a sentence about those that are not there."""

    jpegs: dict[int, bytes] = field(default_factory=dict)
    missing: str = ""
    note: str = ""


def page_pictures(project: Project, rows: Sequence[int], *, images: bool = True) -> Pictures:
    """The pictures of some rows, the first ones first; each row may be shown several times.

    Parameters
    ----------
    images : bool
        False for confidential data: no picture is read.
    """
    named = project.manifest.images != ""
    if not named.any():
        return Pictures(missing="no picture")
    if not images:
        return Pictures(missing=LEFT_OUT, note="Pictures were left out.")
    times = Counter(rows)  # in the order of their first place
    jpegs, why = _jpegs(project, np.array(list(times), dtype=np.int64))
    kept, n_bytes, n_left, n_unread = {}, 0, 0, 0
    for row, jpeg in zip(times, jpegs, strict=True):
        if jpeg is None:
            n_unread += bool(named[row])
        elif n_bytes + len(jpeg) * times[row] > MOST_BYTES:
            n_left += 1
        else:
            kept[row] = jpeg
            n_bytes += len(jpeg) * times[row]
    notes = [
        f"{counted(n_unread, 'picture')} of {len(times):,} cannot be read{why}." if n_unread else "",
        f"{counted(n_left, 'picture')} left out: the file would be too large." if n_left else "",
    ]
    return Pictures(jpegs=kept, missing=NO_PICTURE, note=" ".join(filter(None, notes)))


def _jpegs(project: Project, rows: np.ndarray) -> tuple[list[bytes | None], str]:
    """Thumbnails, and why none could be made: pictures that are gone do not end a command that can do without."""
    try:
        return thumbnails(project, rows), ""
    except (MmfeatError, OSError) as error:
        why = f" ({error})"
    try:
        return thumbnails(project, rows, make=False), why
    except (MmfeatError, OSError):
        return [None] * len(rows), why
