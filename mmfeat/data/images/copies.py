"""Copies of an image that differ only in metadata: which rows they join, and which stand in two splits already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfeat.data.groups import Groups, groups_of
from mmfeat.data.row_keys import RowKeys
from mmfeat.data.splits import SPLITS


def groups_with_copies(
    row_keys: RowKeys, names: Sequence[str] | None = None, known: Sequence[str] | None = None
) -> tuple[Groups, list[str] | None]:
    """Groups that hold copies of an image together, but for those whose rows have two splits already.

    Rows with a split keep it: copies that have two are grouped by their files' bytes, as before. A new row among them
    joins the first of these splits, so that no further row of the others has a copy there.

    Parameters
    ----------
    names : sequence of str, optional
        The group that the source gives each row.
    known : sequence of str, optional
        For each row the split it has already, or an empty string.

    Returns
    -------
    tuple of Groups and list of str or None
        The groups, and `known` with the splits of such new rows.
    """
    strict = groups_of(row_keys.keys, row_keys.present, names)
    joined = groups_of(row_keys.pixels, row_keys.present, names)
    if known is None or len(joined) == len(strict):
        return joined, None if known is None else list(known)
    placed = np.array([SPLITS.index(split) if split else len(SPLITS) for split in known], dtype=np.int64)
    first, last = _ends(joined, placed)
    torn = (first < last)[joined.numbers]
    if not torn.any():
        return joined, list(known)
    numbers = np.where(torn, strict.numbers + len(joined), joined.numbers)
    pictures = np.where(torn & (strict.pictures >= 0), strict.pictures + len(torn), joined.pictures)
    groups = Groups(
        numbers=np.unique(numbers, return_inverse=True)[1].astype(np.int64), pictures=pictures, names=joined.names
    )
    open_groups = (_ends(groups, placed)[0] == len(SPLITS))[groups.numbers]
    joins = np.where(torn & open_groups, first[joined.numbers], placed)
    return groups, [SPLITS[number] if number < len(SPLITS) else "" for number in joins.tolist()]


def _ends(groups: Groups, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last split of each group's rows, `(G,)`; where none has one, `len(SPLITS)` and -1."""
    first, last = np.full(len(groups), len(SPLITS)), np.full(len(groups), -1)
    rows = np.flatnonzero(placed < len(SPLITS))
    np.minimum.at(first, groups.numbers[rows], placed[rows])
    np.maximum.at(last, groups.numbers[rows], placed[rows])
    return first, last


def copies_across_splits(row_keys: RowKeys, split: np.ndarray) -> list[tuple[int, int]]:
    """Rows with the image data of a row in another split, and that row: for each image one pair of every two splits."""
    rows = np.flatnonzero(row_keys.present)
    _, picture = np.unique(np.ascontiguousarray(row_keys.pixels[rows]).view("V16").ravel(), return_inverse=True)
    number = np.array([SPLITS.index(name) for name in split[rows].tolist()], dtype=np.int64)
    # of each image and split the first row; its neighbours are those of the same image in other splits
    codes, at = np.unique(picture * len(SPLITS) + number, return_index=True)
    same = np.flatnonzero(codes[1:] // len(SPLITS) == codes[:-1] // len(SPLITS))
    return [(int(rows[at[i]]), int(rows[at[i + 1]])) for i in same]
