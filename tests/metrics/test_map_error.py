"""The standard error of mAP agrees with the bootstrap and with a derivative taken by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmfeat.metrics import Outcome, bootstrap_metrics, scores
from mmfeat.metrics.map_error import _influences, map_error


def made(n: int, k: int, ties: bool):
    rng = np.random.default_rng(n)
    labels = (rng.random((n, k)) < np.linspace(0.03, 0.4, k)).astype(np.int8)
    logits = (2 * labels - 2 + rng.normal(size=(n, k))).astype(np.float32)
    return labels, np.round(logits, 1) if ties else logits


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [400, 3000])
def test_it_agrees_with_the_bootstrap(n, ties):
    labels, logits = made(n, 8, ties)
    labels[::7, 0] = -1
    low, high = bootstrap_metrics(labels, Outcome(labels, logits, logits), ("map",))["map"]
    assert map_error(labels, logits) == pytest.approx((high - low) / (2 * 1.96), rel=0.2)


def test_an_influence_is_what_a_row_more_changes():
    labels, logits = made(60, 1, True)
    found = _influences(labels[:, 0] == 1, logits[:, 0])
    assert found.sum() == pytest.approx(0, abs=1e-9)  # average precision does not depend on the scale of the weights
    copies = 1000  # of every row, so that one row more is a small step
    many = np.repeat(labels, copies, 0), np.repeat(logits, copies, 0)
    before = scores(many[0], many[0], many[1]).map
    for row in (0, 7, 31):
        more = [np.concatenate([array, array[row * copies : row * copies + 1]]) for array in many]
        after = scores(more[0], more[0], more[1]).map
        assert (after - before) * copies == pytest.approx(found[row], rel=0.02, abs=1e-6)


def test_without_a_positive_there_is_no_error():
    assert map_error(np.zeros((5, 2), np.int8), np.zeros((5, 2), np.float32)) == 0
