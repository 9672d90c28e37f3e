"""Copies of an image that differ only in metadata: they group rows; copies that are already in two splits are listed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfeat.data.groups import SPLITS, Groups, groups_of
from mmfeat.data.row_keys import RowKeys


def groups_with_copies(
    row_keys: RowKeys,
    names: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    *,
    merged: Sequence[str] | None = None,
) -> tuple[Groups, list[str] | None]:
    """Groups that keep copies of an image together, except copies that are already in two splits.

    Rows keep their current split: copies in two splits are only grouped if their files are identical. A new copy joins the
    first of these splits. Near-duplicates of groups.csv are treated as copies are.

    Parameters
    ----------
    names : sequence of str, optional
        The group of each row in the source.
    known : sequence of str, optional
        The current split of each row, or an empty string.
    merged : sequence of str, optional
        The group of each row in the source, merged with groups.csv; `names`, if None.

    Returns
    -------
    tuple of Groups and list of str or None
        The groups, and `known` completed by the splits of such new rows.
    """
    strict = groups_of(row_keys.keys, row_keys.present, names)
    joined = groups_of(row_keys.pixels, row_keys.present, names if merged is None else merged)
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
    """First and last split of each group's rows, `(G,)` each; `len(SPLITS)` and -1 if no row has a split."""
    first, last = np.full(len(groups), len(SPLITS)), np.full(len(groups), -1)
    rows = np.flatnonzero(placed < len(SPLITS))
    np.minimum.at(first, groups.numbers[rows], placed[rows])
    np.maximum.at(last, groups.numbers[rows], placed[rows])
    return first, last


def copies_across_splits(row_keys: RowKeys, split: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows in different splits with the same image data: one pair for each image and pair of splits."""
    rows = np.flatnonzero(row_keys.present)
    _, picture = np.unique(np.ascontiguousarray(row_keys.pixels[rows]).view("V16").ravel(), return_inverse=True)
    number = np.array([SPLITS.index(name) for name in split[rows].tolist()], dtype=np.int64)
    # the first row of each image and split; neighbours have the same image in other splits
    codes, at = np.unique(picture * len(SPLITS) + number, return_index=True)
    same = np.flatnonzero(codes[1:] // len(SPLITS) == codes[:-1] // len(SPLITS))
    return [(int(rows[at[i]]), int(rows[at[i + 1]])) for i in same]
