"""Splits: seeded, stratified, kept; and what belongs together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.groups import Groups, groups_of
from mmfeat.data.splits import make_splits


def alone(n: int) -> Groups:
    """Every row for itself."""
    return named([""] * n)


def named(names) -> Groups:
    """Groups by names alone, no pictures."""
    return groups_of(np.zeros((len(names), 32), np.uint8), np.zeros(len(names), bool), names)


def pictured(pictures, names=None) -> Groups:
    """Rows with pictures of these numbers, none where it is -1."""
    keys = np.zeros((len(pictures), 32), np.uint8)
    keys[:, 0] = np.maximum(pictures, 0)
    return groups_of(keys, np.array(pictures) >= 0, names)


def labels_of(rng, n, k):
    labels = (rng.random((n, k)) < (np.arange(k) + 1.5) ** -1.2).astype(np.int8)
    labels[rng.random(n) < 0.1] = -1
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(30, 300), st.integers(1, 6))
def test_splits(seed, n, k):
    rng = np.random.default_rng(seed)
    ids = [f"row{i}" for i in range(n)]
    labels, groups = labels_of(rng, n, k), rng.integers(0, n, n)
    names = [f"g{g}" for g in groups]
    shares = {"val": 0.2, "test": 0.1}
    split = make_splits(ids, labels, named(names), shares=shares, seed=seed)
    for group in set(groups.tolist()):
        assert len(set(split[groups == group])) == 1
    order = rng.permutation(n)
    again = make_splits(
        [ids[i] for i in order], labels[order], named([names[i] for i in order]), shares=shares, seed=seed
    )
    assert (again == split[order]).all()
    labelled = (labels >= 0).any(1)
    largest = np.bincount(groups[labelled]).max()
    for name, share in shares.items():
        assert abs((split[labelled] == name).sum() - share * labelled.sum()) <= largest + 1
    with_known = make_splits(ids, labels, named(names), shares={"val": 0.5}, seed=seed + 1, known=split)
    assert (with_known == split).all()


@pytest.mark.parametrize("shares", [{"val": 0, "test": 0.3}, {"val": 0.3}, {"val": 0.2, "test": 0.2}, {}])
def test_rows_keep_their_split_whatever_the_shares_say_now(shares):
    known = ["train", "val", "test"] * 10 + [""] * 40
    labels = np.ones((70, 1), np.int8)
    split = make_splits([str(i) for i in range(70)], labels, alone(70), shares=shares, seed=0, known=known)
    assert split[:30].tolist() == known[:30]
    for name, share in shares.items():
        assert (split[30:] == name).sum() == round(share * 40)


def test_stratified_and_exact_where_rows_are_alone():
    rng = np.random.default_rng(0)
    labels = (rng.random((5000, 8)) < np.array([0.7, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01])).astype(np.int8)
    split = make_splits([str(i) for i in range(5000)], labels, alone(5000), shares={"val": 0.1}, seed=0)
    val = split == "val"
    assert val.sum() == 500
    share = labels[val].sum(0) / labels.sum(0)
    assert (abs(share - 0.1) < 0.02).all(), share


def test_an_unlabelled_twin_of_a_val_row_stands_in_val():
    labels = np.array([[1], [1], [1], [1], [-1], [-1]], np.int8)
    groups = pictured([0, 1, 2, 3, 0, 4])
    known = ["val", "train", "train", "train", "", ""]
    assert make_splits(list("abcdef"), labels, groups, shares={"val": 0.25}, seed=0, known=known).tolist()[4:] == [
        "val",
        "train",
    ]


def test_growing_in_steps_changes_no_split_and_keeps_the_shares():
    rng = np.random.default_rng(0)
    n, shares = 1000, {"val": 0.2, "test": 0.1}
    ids = [str(i) for i in range(n)]
    labels = labels_of(rng, n, 4)
    for step in (1, 7, 100):
        split, known = np.array([], dtype=object), 600
        while known < n:
            known = min(n, known + step) if len(split) else 600
            before = [*split, *[""] * (known - len(split))]
            now = make_splits(
                ids[:known], labels[:known], alone(known), shares=shares, seed=0, known=before if len(split) else None
            )
            assert (now[: len(split)] == split).all()
            split = now
        labelled = (labels >= 0).any(1)
        for name, share in shares.items():  # three times the spread of a draw for every row
            assert abs((split[labelled] == name).mean() - share) < 3 * np.sqrt(share * (1 - share) / n), (step, name)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 25))
def test_groups_that_grow_stay_whole_and_where_they_are(seed, steps, n_groups):
    rng = np.random.default_rng(seed)
    n = sum(steps)
    ids, labels = [f"row{i}" for i in range(n)], labels_of(rng, n, 3)
    names = [f"p{g}" if g else "" for g in rng.integers(0, n_groups, n)]
    split: list[str] = []
    for end in np.cumsum(steps).tolist():
        labelled = (labels >= 0).any(1)
        known = [s if labelled[i] else "" for i, s in enumerate(split)] + [""] * (end - len(split))
        now = make_splits(
            ids[:end], labels[:end], named(names[:end]), shares={"val": 0.3, "test": 0.2}, seed=1, known=known
        )
        assert all(a == b for a, b in zip(now, known, strict=True) if b)
        for name in set(names[:end]) - {""}:
            assert len({s for s, other in zip(now, names, strict=False) if other == name}) == 1
        split = now.tolist()


@pytest.mark.parametrize("sizes", [[1], [5], [2, 2], [1, 1, 1]])
def test_few_new_rows_are_val_as_often_as_their_share(sizes):
    """However small a step is, and also where the shares of now are not those of the rows that are there."""
    names = ["old", *(f"new{i}" for i, size in enumerate(sizes) for _ in range(size))]
    labels, known = np.ones((len(names), 1), np.int8), ["train", *[""] * sum(sizes)]
    n = 0
    for trial in range(600):
        ids = [f"{trial}-{i}" for i in range(len(names))]
        n += (make_splits(ids, labels, named(names), shares={"val": 0.25}, seed=0, known=known)[1:] == "val").sum()
    assert abs(n / (600 * sum(sizes)) - 0.25) < 0.06


# -- what belongs together


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), min_size=1, max_size=25))
def test_rows_are_joined_by_pictures_and_names_and_by_nothing_else(rows):
    pictures, names = [p for p, _ in rows], [f"g{g}" if g >= 0 else "" for _, g in rows]
    numbers = pictured(pictures, names).numbers
    together = [{i} for i in range(len(rows))]  # by hand: join until nothing joins
    for i in range(len(rows)):
        for j in range(i):
            if pictures[i] == pictures[j] >= 0 or (names[i] and names[i] == names[j]):
                whole = together[i] | together[j]
                for row in whole:
                    together[row] = whole
    for i in range(len(rows)):
        assert set(np.flatnonzero(numbers == numbers[i]).tolist()) == together[i]
    assert sorted(set(numbers.tolist())) == list(range(numbers.max() + 1))


@pytest.mark.parametrize(
    ("pictures", "names", "known", "says"),
    [
        ([0, 0], None, ["train", "val"], "row 'r0' (train) has the same picture as 'r1' (val):"),
        ([-1, -1], ["p17", "p17"], ["test", "train"], "row 'r0' (test) has the same group 'p17' as 'r1' (train):"),
        (
            [0, -1, 0],
            ["", "p17", "p17"],
            ["train", "val", ""],
            "row 'r0' (train) has the same picture as 'r2' (no split yet), which has the same group 'p17' as 'r1' (val):",
        ),
        (
            [0, 0, 0, 1, 1, 1],
            ["", "", "a", "a", "", ""],
            ["val", "", "", "", "", "train"],
            "row 'r0' (val) has the same picture as 'r2' (no split yet), which has the same group 'a' as 'r3' "
            "(no split yet), which has the same picture as 'r5' (train):",
        ),
        ([0, 0, 1, 1], None, ["val", "train", "val", "train"], "'r1' (train) (1 more like this):"),
    ],
)
def test_two_splits_in_one_group_are_an_error_that_names_rows_and_what_they_share(pictures, names, known, says):
    groups = pictured(pictures, names)
    ids = [f"r{i}" for i in range(len(pictures))]
    with pytest.raises(DataError) as error:
        make_splits(ids, np.ones((len(ids), 1), np.int8), groups, shares={"val": 0.5}, seed=0, known=known)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 5), st.integers(-1, 5), st.sampled_from(["", "train", "val"])),
        min_size=1,
        max_size=20,
    )
)
def test_two_splits_in_one_group_are_never_overlooked_nor_seen_where_they_are_not(rows):
    pictures, names, known = (
        [p for p, _, _ in rows],
        [f"g{g}" if g >= 0 else "" for _, g, _ in rows],
        [k for _, _, k in rows],
    )
    groups = pictured(pictures, names)
    splits = [
        {k for k, n in zip(known, groups.numbers, strict=True) if n == number and k} for number in range(len(groups))
    ]
    if any(len(found) > 1 for found in splits):
        with pytest.raises(DataError, match="has the same"):
            groups.refuse_two_splits([str(i) for i in range(len(rows))], known)
    else:
        groups.refuse_two_splits([str(i) for i in range(len(rows))], known)
