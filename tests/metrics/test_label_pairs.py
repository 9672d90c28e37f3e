"""Pairs of classes: counts are those of plain loops, whatever the number of classes."""

from __future__ import annotations

import numpy as np

from mmfeat.metrics.label_pairs import confusions, together

RNG = np.random.default_rng(3)
LABELS = RNG.integers(-1, 2, (60, 7)).astype(np.int8)
PREDICTED = RNG.integers(0, 2, (60, 7)).astype(np.int8)


def counted(pairs):
    return dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), pairs.n.tolist(), strict=True))


def test_labels_that_occur_together():
    wanted = {(a, b): int(((LABELS[:, a] == 1) & (LABELS[:, b] == 1)).sum()) for a in range(7) for b in range(a + 1, 7)}
    pairs = together(LABELS)
    assert counted(pairs) == {pair: n for pair, n in wanted.items() if n}
    assert np.all(np.diff(pairs.n) <= 0)


def test_a_confusion_is_a_missed_class_beside_a_wrong_one():
    missed, wrong = (LABELS == 1) & (PREDICTED == 0), (LABELS == 0) & (PREDICTED == 1)
    wanted = {(a, b): int((missed[:, a] & wrong[:, b]).sum()) for a in range(7) for b in range(7) if a != b}
    assert counted(confusions(LABELS, PREDICTED)) == {pair: n for pair, n in wanted.items() if n}


def test_the_matrix_of_some_classes():
    pairs, classes = together(LABELS), np.array([1, 4, 6])
    matrix = pairs.matrix(classes)
    assert matrix[0, 2] == counted(pairs)[1, 6]
    assert matrix[2, 0] == 0
    assert len(pairs.top(3).n) == 3
    assert len(pairs.leading_classes(4)) == 4


def test_no_pair_at_all():
    nothing = together(np.zeros((5, 3), np.int8))
    assert not len(nothing.n)
    assert not len(nothing.leading_classes(5))
    assert nothing.matrix(np.array([0, 2])).tolist() == [[0, 0], [0, 0]]


def test_thousands_of_classes_need_no_dense_table():
    labels = np.zeros((2000, 5000), np.int8)
    labels[np.arange(2000), np.arange(2000)] = labels[np.arange(2000), 4999] = 1
    assert counted(together(labels))[7, 4999] == 1
