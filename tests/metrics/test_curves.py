"""Precision-recall curves agree with scikit-learn and with the average precision of the tables."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from mmfeat.metrics.curves import precision_recall


@pytest.mark.parametrize("ties", [1, 10])
def test_the_points_are_those_of_scikit_learn(ties):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(np.int8)
    scores = np.round(rng.normal(size=200) + labels, 1 if ties > 1 else 9)
    recall, precision = precision_recall(labels, scores, points=10_000)
    theirs_precision, theirs_recall, _ = precision_recall_curve(labels, scores)
    theirs = set(zip(theirs_recall.round(9), theirs_precision.round(9), strict=True))
    assert set(zip(recall.round(9), precision.round(9), strict=True)) <= theirs
    assert np.all(np.diff(recall) > 0)
    assert recall[-1] == 1
    for at, value in zip(recall, precision, strict=True):  # the best precision at each recall
        assert value == pytest.approx(max(p for r, p in theirs if r == pytest.approx(at)))


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    labels = np.tile([1, 0], 5000).astype(np.int8)
    recall, _ = precision_recall(labels, np.linspace(1, 0, 10_000), points=50)
    assert len(recall) <= 50
    assert recall[-1] == 1
    assert recall[0] == pytest.approx(1 / 5000)


def test_unknown_labels_are_ignored_and_without_a_positive_there_is_no_curve():
    recall, precision = precision_recall(np.array([[1, -1], [-1, 0]]), np.array([[0.1, 0.9], [0.8, 0.05]]))
    assert (recall.tolist(), precision.tolist()) == ([1.0], [1.0])
    assert not len(precision_recall(np.array([0, -1]), np.zeros(2))[0])
