"""Fitted thresholds are the best there are, blind to what is not known, and out of sample where figures come from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import decide
from mmfeat.metrics import (
    crossfit_folds,
    crossfitted_thresholds,
    expected_calibration_error,
    fit_temperature,
    fit_thresholds,
    scores,
)
from mmfeat.metrics import thresholds as module
from mmfeat.metrics.thresholds import TUNED_FOR, best_by_class, best_threshold

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

METRICS = st.sampled_from(TUNED_FOR)
EMPTY = st.sampled_from(["most-probable", "none"])


@st.composite
def cases(draw, lowest: int = -1):
    """Labels with a yes among them, and probabilities with many ties."""
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    labels = draw(arrays(np.int8, shape, elements=st.integers(lowest, 1)).filter(lambda x: (x == 1).any()))
    probs = draw(arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.6, 0.9, 1.0])))
    return labels, probs


def value(labels, probs, threshold, metric, empty):
    return scores(labels, decide(probs, threshold, empty), probs).value(metric)


def rows_of(labels, probs, empty):
    kept = (labels >= 0).any(1)
    return module._Rows.of(labels[kept], probs[kept], empty)


@given(cases(), METRICS, EMPTY)
def test_no_threshold_is_better_than_the_fitted_one(case, metric, empty):
    labels, probs = case
    best = max(value(labels, probs, t, metric, empty) for t in (0, 0.05, 0.15, 0.3, 0.55, 0.7, 0.95, 1))
    found = fit_thresholds(labels, probs, metric, per_class=False, empty=empty)
    assert value(labels, probs, found, metric, empty) == pytest.approx(best, abs=1e-9)


@given(cases())
def test_classes_that_do_not_meet_get_their_best_thresholds(case):
    labels, probs = case
    rows = rows_of(labels, probs, "none")
    found = best_by_class(rows, "macro-f1", best_threshold(rows, "macro-f1"))
    f1 = scores(labels, decide(probs, found, "none"), probs).class_f1
    for t in (0, 0.05, 0.15, 0.3, 0.55, 0.7, 0.95, 1):
        assert (f1 >= scores(labels, decide(probs, t, "none"), probs).class_f1 - 1e-9).all()


@given(cases(), METRICS, EMPTY)
def test_a_threshold_for_each_class_is_no_worse_than_one_and_no_class_alone_can_better_it(case, metric, empty):
    labels, probs = case
    rows = rows_of(labels, probs, empty)
    one = best_threshold(rows, metric)
    each = best_by_class(rows, metric, one)
    best = value(labels, probs, each, metric, empty)
    assert best >= value(labels, probs, one, metric, empty) - 1e-9
    for k in np.flatnonzero((labels == 1).any(0)):
        for t in module._candidates(probs[labels[:, k] == 1, k], probs[labels[:, k] >= 0, k], 99):
            assert value(labels, probs, np.where(np.arange(len(each)) == k, t, each), metric, empty) <= best + 1e-7


@given(cases(), METRICS, st.booleans(), EMPTY, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_what_is_not_known_do_not_matter(case, metric, per_class, empty, random):
    labels, probs = case
    found = fit_thresholds(labels, probs, metric, per_class=per_class, empty=empty)
    order = np.array(random.sample(range(len(labels)), len(labels)))
    assert np.array_equal(fit_thresholds(labels[order], probs[order], metric, per_class=per_class, empty=empty), found)
    more = np.concatenate([labels, np.full_like(labels, -1)]), np.concatenate([probs, 1 - probs])
    assert np.array_equal(fit_thresholds(*more, metric, per_class=per_class, empty=empty), found)


def test_a_class_with_few_yeses_stays_near_the_one_threshold_and_one_with_many_gets_its_own():
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 3)) < [0.3, 0.0005, 0.0]).astype(np.int8)
    labels[:2, 1] = 1
    probs = np.clip(0.25 + 0.3 * labels + rng.normal(0, 0.1, labels.shape), 0.01, 0.99).astype(np.float32)
    probs[:, 0] **= 3
    one = fit_thresholds(labels, probs, "macro-f1", per_class=False, empty="none")
    each = fit_thresholds(labels, probs, "macro-f1", per_class=True, empty="none")
    own = best_by_class(rows_of(labels, probs, "none"), "macro-f1", one)
    assert abs(each[0] - own[0]) < 0.03
    assert abs(each[1] - one) < 0.03
    assert each[2] == one


def test_nothing_to_fit_on_leaves_a_half():
    for labels in (np.zeros((3, 2), np.int8), np.full((3, 2), -1, np.int8), np.zeros((0, 2), np.int8)):
        assert fit_thresholds(labels, np.full(labels.shape, 0.3)) == 0.5
        assert fit_thresholds(labels, np.full(labels.shape, 0.3), per_class=True).tolist() == [0.5, 0.5]
    with pytest.raises(MmfeatError, match="shape"):
        fit_thresholds(np.zeros((3, 2), np.int8), np.zeros((3, 1)))
    with pytest.raises(MmfeatError, match="most-probable"):
        fit_thresholds(np.ones((3, 2), np.int8), np.zeros((3, 2)), empty="x")


def made(n: int = 300, k: int = 3):
    rng = np.random.default_rng(1)
    labels = (rng.random((n, k)) < 0.3).astype(np.int8)
    probs = rng.random((n, k)).astype(np.float32)
    return (
        labels,
        np.clip(0.5 * probs + 0.3 * labels, 0, 1).astype(np.float32),
        rng.integers(0, 2**63, n, dtype=np.uint64),
    )


@pytest.mark.parametrize("per_class", [False, True])
def test_a_rows_own_labels_never_reach_its_thresholds_and_neither_does_the_order(per_class):
    labels, probs, numbers = made()
    found = crossfitted_thresholds(
        labels, probs, "samples-f1", per_class=per_class, empty="most-probable", numbers=numbers
    )
    assert found.shape == (300, 3 if per_class else 1)
    fold = crossfit_folds(numbers)
    assert np.bincount(fold).tolist() == [60] * 5
    changed = labels.copy()
    changed[fold == 2] = 1 - changed[fold == 2]
    again = crossfitted_thresholds(
        changed, probs, "samples-f1", per_class=per_class, empty="most-probable", numbers=numbers
    )
    assert np.array_equal(again[fold == 2], found[fold == 2])
    assert not np.array_equal(again, found)
    order = np.random.default_rng(0).permutation(300)
    shuffled = crossfitted_thresholds(
        labels[order], probs[order], "samples-f1", per_class=per_class, empty="most-probable", numbers=numbers[order]
    )
    assert np.array_equal(shuffled, found[order])
    assert decide(probs, found).shape == labels.shape


@pytest.mark.parametrize("n", [0, 1, 3])
def test_fewer_rows_than_folds_are_no_error(n):
    labels, probs, numbers = made(n)
    assert crossfitted_thresholds(labels, probs, "macro-f1", per_class=True, empty="none", numbers=numbers).shape == (
        n,
        3,
    )


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4)).astype(np.float32)
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits / true))).astype(np.int8)
    found = fit_temperature(labels, logits)
    assert found == pytest.approx(true, rel=0.05)
    before, after = (expected_calibration_error(labels, 1 / (1 + np.exp(-logits / t))) for t in (1, found))
    assert after < 0.01
    assert after <= before + 1e-3


@given(cases())
@settings(max_examples=30)
def test_the_temperature_is_bounded_and_never_worse_than_none(case):
    labels, probs = case
    logits = 20 * probs - 10
    found = fit_temperature(labels, logits)
    assert 0.1 <= found <= 10
    losses = [scores(labels, decide(probs), logits / np.float32(t)).loss for t in (1.0, found)]
    assert losses[1] <= losses[0] + 1e-7
    unknown = np.where(labels < 0, 9 - logits, logits)
    assert fit_temperature(labels, unknown) == pytest.approx(found, rel=1e-3)


def test_the_temperature_of_nothing_is_one():
    assert fit_temperature(np.full((2, 2), -1, np.int8), np.full((2, 2), np.nan)) == 1
    assert fit_temperature(np.zeros((0, 2), np.int8), np.zeros((0, 2))) == 1
    assert fit_temperature(np.int8([[0, 1]]), np.zeros((1, 2))) == 1


def test_the_calibration_error_is_nought_of_the_truth_and_the_distance_of_a_constant():
    labels = np.int8([[0, 1, -1], [1, 0, -1]])
    assert expected_calibration_error(labels, (labels == 1).astype(np.float32)) == 0
    assert expected_calibration_error(labels, np.full(labels.shape, 0.9)) == pytest.approx(0.4)
