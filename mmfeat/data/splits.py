"""Splits made once: seeded, stratified for several labels, identical pictures together.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas, 2011) over groups: the class with the fewest rows left is dealt
out first, each of its groups to the split that still wants it most. Kept libraries deal single rows; here rows of one
group must stay together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfeat.errors import DataError
from mmfeat.randomness import id_numbers, mix

SPLITS = ("train", "val", "test")


def groups_of(keys: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Group number of each row, `(N,)` int64: rows with the same image share one; a row without an image is alone."""
    groups = np.full(len(present), -1, dtype=np.int64)
    rows = np.flatnonzero(present)
    if len(rows):
        _, groups[rows] = np.unique(np.ascontiguousarray(keys[rows]).view("V32").ravel(), return_inverse=True)
    alone = np.flatnonzero(~present)
    groups[alone] = groups.max(initial=-1) + 1 + np.arange(len(alone))
    return groups


def make_splits(
    ids: Sequence[str], labels: np.ndarray, groups: np.ndarray, shares: dict[str, float], seed: int,
    known: Sequence[str] | None = None,
) -> np.ndarray:  # fmt: skip
    """Deal rows out to splits.

    Parameters
    ----------
    ids : sequence of str
        With the seed they decide ties, so that the rows' order does not matter.
    labels : np.ndarray
        `(N, K)` int8; a row of -1 alone is unlabelled and only follows its group.
    groups : np.ndarray
        `(N,)` group numbers.
    shares : dict of str to float
        `val` and `test`: shares of the labelled rows; the rest is train.
    known : sequence of str, optional
        For each row the split it has already, or an empty string. Its whole group joins it.

    Returns
    -------
    np.ndarray
        `(N,)` object of `train`, `val`, `test`.

    Raises
    ------
    DataError
        A group has rows of two splits.
    """
    n_groups = int(groups.max(initial=-1)) + 1
    names = ["train", *(name for name in ("val", "test") if shares.get(name, 0) > 0)]
    fixed = _fixed(ids, groups, n_groups, known)
    labelled = (labels >= 0).any(1)
    size = np.bincount(groups[labelled], minlength=n_groups)
    counts = np.zeros((n_groups, labels.shape[1]), np.int64)
    np.add.at(counts, groups[labelled], labels[labelled] == 1)
    numbers = np.full(n_groups, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(numbers, groups, mix(id_numbers(ids), seed))
    wanted = np.array([1 - sum(shares.get(n, 0) for n in names[1:]), *(shares[n] for n in names[1:])])
    open_groups = np.flatnonzero((fixed < 0) & (size > 0))
    open_groups = open_groups[np.argsort(numbers[open_groups], kind="stable")]
    dealt = _deal(counts, size, wanted, open_groups)
    split = np.where(fixed >= 0, fixed, 0)
    split[open_groups] = np.array([SPLITS.index(name) for name in names])[dealt[open_groups]]
    return np.array(SPLITS, dtype=object)[split][groups]


def _fixed(ids: Sequence[str], groups: np.ndarray, n_groups: int, known: Sequence[str] | None) -> np.ndarray:
    """The split that a group has already, `(G,)`, -1 where it has none."""
    fixed = np.full(n_groups, -1, dtype=np.int64)
    if known is None:
        return fixed
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(np.asarray(known, dtype=object) == name)
        clash = rows[(fixed[groups[rows]] >= 0) & (fixed[groups[rows]] != number)]
        if len(clash):
            row = clash[0]
            others = [str(ids[i]) for i in np.flatnonzero(groups == groups[row]) if known[i] and i != row][:3]
            raise DataError(
                f"row {str(ids[row])!r} ({name}) has the same picture as {', '.join(map(repr, others))} of another split. "
                f"Remove one of them, or remove manifest.parquet to split anew"
            )
        fixed[groups[rows]] = number
    return fixed


def _deal(counts: np.ndarray, size: np.ndarray, shares: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Split number of each group, `(G,)`; only groups in `order` are dealt.

    What a split wants of a class is its share of the class's rows less what it got; what it wants in all, its share of
    the rows less what it got. The class with the fewest rows left goes first.
    """
    dealt = np.zeros(len(size), dtype=np.int64)
    n_splits = len(shares)
    want_rows = shares * size[order].sum()  # (S,)
    want = shares[:, None] * counts[order].sum(0)  # (S, K)
    left = counts[order].sum(0)  # (K,)
    waiting = np.zeros(len(size), dtype=bool)
    waiting[order] = True
    while True:
        candidates = np.flatnonzero(left > 0)
        members = None
        if len(candidates):
            k = candidates[np.argmin(left[candidates])]
            members = order[waiting[order] & (counts[order, k] > 0)]
        else:
            k, members = None, order[waiting[order]]
        for group in members:
            prefer = want[:, k] if k is not None else want_rows
            if (want_rows > 0).any():  # a split that is full takes no more
                prefer = np.where(want_rows > 0, prefer, -np.inf)
            best = np.flatnonzero(prefer == prefer.max())
            if len(best) > 1:
                best = best[want_rows[best] == want_rows[best].max()]
            split = int(best[0]) if n_splits > 1 else 0
            dealt[group] = split
            want[split] -= counts[group]
            want_rows[split] -= size[group]
        waiting[members] = False
        if k is None:
            return dealt
        left = left - counts[members].sum(0)
