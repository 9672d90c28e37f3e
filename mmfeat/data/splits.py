"""Splits and folds: seeded, stratified for multi-label data, with each group in one split.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas, 2011) over groups: the class with the fewest remaining rows is
assigned first, each of its groups to the split that needs it most. Existing libraries assign single rows; here the rows of a
group must stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import has_label, positive_cells
from mmfeat.common.randomness import id_numbers, mix
from mmfeat.common.text import counted
from mmfeat.data.groups import SPLITS, Groups

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def make_folds(ids: Sequence[str], labels: np.ndarray, groups: Groups, *, k: int, seed: int) -> np.ndarray:
    """Assign labelled rows to `k` stratified folds of equal size, each group to one fold.

    Parameters
    ----------
    ids : sequence of str
        They break ties together with the seed, so that the order of rows does not matter.
    labels : np.ndarray
        `(N, K)` int8, each row with a known label.

    Returns
    -------
    np.ndarray
        `(N,)` int64 from 0: the fold of each row.

    Raises
    ------
    DataError
        There are fewer groups than folds.
    """
    size = np.bincount(groups.numbers, minlength=len(groups))
    order = np.flatnonzero(size)
    if len(order) < k:
        what = "" if len(order) == len(ids) else ", counting rows with the same picture or group once"
        raise DataError(
            f"fuse.folds = {k} needs more than {counted(len(order), 'labelled row')}{what}. Use: --folds {len(order) if len(order) > 1 else 0}"
        )
    counts = _positives(labels, groups.numbers, len(groups))
    turn = np.full(len(groups), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(turn, groups.numbers, mix(id_numbers(ids), seed, k))
    order = order[np.argsort(turn[order], kind="stable")]
    shares = np.full(k, 1 / k)
    dealt = _assign_groups(counts, size, shares, want_rows=shares * len(ids), order=order)
    return _fill_empty(dealt, order, k)[groups.numbers]


def _fill_empty(dealt: np.ndarray, order: np.ndarray, k: int) -> np.ndarray:
    """The folds without empty ones: an empty fold gets a group of the fold with most groups."""
    dealt = dealt.copy()
    for fold in range(k):
        held = np.bincount(dealt[order], minlength=k)
        if not held[fold]:
            dealt[order[dealt[order] == held.argmax()][-1]] = fold
    return dealt


def make_splits(
    ids: Sequence[str],
    labels: np.ndarray,
    groups: Groups,
    *,
    shares: dict[str, float],
    seed: int,
    known: Sequence[str] | None = None,
) -> np.ndarray:
    """Assign rows to train, val and test.

    Parameters
    ----------
    ids : sequence of str
        They break ties together with the seed, so that the order of rows does not matter.
    labels : np.ndarray
        `(N, K)` int8; an unlabelled row (all -1) follows its group.
    shares : dict of str to float
        Shares of `val` and `test` among the labelled rows without a split; the rest is train.
    known : sequence of str, optional
        The current split of each row, or an empty string. The row's whole group joins it.

    Returns
    -------
    np.ndarray
        `(N,)` object of `train`, `val`, `test`.

    Raises
    ------
    DataError
        A group has rows of two splits.
    """
    known = known if known is not None else [""] * len(ids)
    groups.refuse_two_splits(ids, known)
    numbers, n_groups = groups.numbers, len(groups)
    names = ["train", *(name for name in ("val", "test") if shares.get(name, 0) > 0)]
    fixed = _current_splits(groups, known)
    labelled = has_label(labels)
    size = np.bincount(numbers[labelled], minlength=n_groups)
    counts = _positives(labels, numbers, n_groups)
    drawn = mix(id_numbers(ids), seed)
    turn = np.full(n_groups, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(turn, numbers, drawn)
    shared = np.array([1 - sum(shares.get(n, 0) for n in names[1:]), *(shares[n] for n in names[1:])])
    open_groups = np.flatnonzero((fixed < 0) & (size > 0))
    open_groups = open_groups[np.argsort(turn[open_groups], kind="stable")]
    want = shared * size[open_groups].sum()
    if len(open_groups) and (fixed >= 0).any():
        new = np.isin(numbers, open_groups)
        want = _whole_units(want, size[open_groups].min(), int(np.bitwise_xor.reduce(drawn[new])) % 2**53 / 2**53)
    dealt = _assign_groups(counts, size, shared, want_rows=want, order=open_groups)
    split = np.where(fixed >= 0, fixed, 0)
    split[open_groups] = np.array([SPLITS.index(name) for name in names])[dealt[open_groups]]
    return np.array(SPLITS, dtype=object)[split][numbers]


def _current_splits(groups: Groups, known: Sequence[str]) -> np.ndarray:
    """The current split of each group, `(G,)`; -1 without one."""
    fixed = np.full(len(groups), -1, dtype=np.int64)
    for number, name in enumerate(SPLITS):
        fixed[groups.numbers[np.asarray(known, dtype=object) == name]] = number
    return fixed


def _whole_units(want: np.ndarray, unit: int, phase: float) -> np.ndarray:
    """Wanted numbers `(S,)` in whole units, right on average over phases in [0, 1): systematic sampling.

    If a few rows are added at a time, each addition wants less than one val row; plain rounding would never add any.
    """
    ends = np.floor(np.round(np.cumsum(want) / unit, 9) + phase)
    return np.diff(ends, prepend=0.0) * unit


def _positives(labels: np.ndarray, numbers: np.ndarray, n_groups: int) -> csr_array:
    """Number of positives of each group and class, sparse `(G, K)` int64: with 300,000 groups most are 0."""
    from scipy.sparse import coo_array

    rows, columns = positive_cells(labels)
    ones = np.ones(len(rows), np.int64)
    return coo_array((ones, (numbers[rows], columns)), shape=(n_groups, labels.shape[1])).tocsr()


def _assign_groups(
    counts: csr_array, size: np.ndarray, shares: np.ndarray, *, want_rows: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Split of each group, `(G,)`; only groups in `order` are assigned.

    A split wants of a class its share of the class's rows, and in total `want_rows` `(S,)`, minus what it already has. The
    class with the fewest remaining rows goes first.
    """
    dealt = np.zeros(len(size), dtype=np.int64)
    n_splits = len(shares)
    want_rows = want_rows.astype(np.float64)
    left = counts[order].sum(0)  # (K,)
    want = shares[:, None] * left  # (S, K)
    waiting = np.zeros(len(size), dtype=bool)
    waiting[order] = True
    rank = np.zeros(len(size), dtype=np.int64)  # position of each group in `order`
    rank[order] = np.arange(len(order))
    by_class = counts.tocsc()
    while True:
        candidates = np.flatnonzero(left > 0)
        members = None
        if len(candidates):
            k = candidates[np.argmin(left[candidates])]
            with_class = by_class.indices[by_class.indptr[k] : by_class.indptr[k + 1]]
            with_class = with_class[waiting[with_class]]
            members = with_class[np.argsort(rank[with_class])]
        else:
            k, members = None, order[waiting[order]]
        for group in members:
            prefer = want[:, k] if k is not None else want_rows
            if (want_rows > 0).any():  # a full split takes no more
                prefer = np.where(want_rows > 0, prefer, -np.inf)
            best = np.flatnonzero(prefer == prefer.max())
            if len(best) > 1:
                best = best[want_rows[best] == want_rows[best].max()]
            split = int(best[0]) if n_splits > 1 else 0
            dealt[group] = split
            its = slice(counts.indptr[group], counts.indptr[group + 1])
            want[split, counts.indices[its]] -= counts.data[its]
            want_rows[split] -= size[group]
        waiting[members] = False
        if k is None:
            return dealt
        left = left - counts[members].sum(0)
