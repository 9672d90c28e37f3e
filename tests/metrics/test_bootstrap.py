"""The paired bootstrap: a draw of rows has the figures of those rows, and a model differs from itself by nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmfeat.common.errors import MmfeatError
from mmfeat.metrics import Outcome, paired_bootstrap, scores, subset_difference
from mmfeat.metrics.bootstrap import METRIC_NAMES, WeightedMetrics


def outcome(rng: np.random.Generator, labels: np.ndarray, noise: float = 1.0) -> Outcome:
    logits = (3 * (labels == 1) - 2 + noise * rng.normal(size=labels.shape)).astype(np.float32)
    return Outcome((logits > 0).astype(np.int8), logits, logits / np.float32(1.5))


@st.composite
def drawn(draw):
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    labels = draw(arrays(np.int8, shape, elements=st.integers(-1, 1)).filter(lambda x: (x >= 0).any()))
    decided = draw(arrays(np.int8, shape, elements=st.integers(0, 1)))
    logits = draw(arrays(np.float32, shape, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0])))
    kept = np.flatnonzero((labels >= 0).any(1))
    rows = np.array(draw(st.lists(st.sampled_from(kept.tolist()), min_size=1, max_size=12)))
    return labels, decided, logits, kept, rows


@given(drawn())
@settings(deadline=None)
def test_rows_that_count_twice_have_the_figures_of_rows_that_are_there_twice(case):
    labels, decided, logits, kept, rows = case
    weights = np.bincount(rows, minlength=len(labels))[kept].astype(np.float32)[None]
    found = WeightedMetrics(labels[kept], Outcome(decided[kept], logits[kept], logits[kept])).metrics(weights)
    expected = scores(labels[rows], decided[rows], logits[rows])
    for name in METRIC_NAMES:
        assert found[name][0] == pytest.approx(getattr(expected, name), abs=1e-9), name


def test_a_model_differs_from_itself_by_nothing_and_the_difference_turns_with_its_sides():
    rng = np.random.default_rng(0)
    labels = rng.choice(np.int8([-1, 0, 1]), (300, 4))
    a, b = outcome(rng, labels), outcome(rng, labels, 2.0)
    assert set(paired_bootstrap(labels, a, a, n=20).values()) == {(0.0, 0.0, 0.0)}
    there, back = paired_bootstrap(labels, a, b, n=50), paired_bootstrap(labels, b, a, n=50)
    for name in METRIC_NAMES:
        np.testing.assert_allclose(there[name], [-back[name][i] for i in (0, 2, 1)], atol=1e-12)
    expected = [scores(labels, o.predicted, o.logits) for o in (a, b)]
    for name in ("samples_f1", "micro_f1", "macro_f1", "map", "accuracy_per_class", "label_set_accuracy"):
        difference = getattr(expected[0], name) - getattr(expected[1], name)
        assert there[name][0] == pytest.approx(difference, abs=1e-9)


def test_what_is_better_is_so_beyond_chance_and_what_is_as_good_is_not():
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 5)) < 0.3).astype(np.int8)
    good, same, bad = outcome(rng, labels), outcome(rng, labels), outcome(rng, labels, 2.0)
    for name in METRIC_NAMES:
        _, low, high = paired_bootstrap(labels, good, bad, n=100)[name]
        assert (high < 0) if name == "loss" else (low > 0), name
        _, low, high = paired_bootstrap(labels, good, same, n=100)[name]
        assert low < 0 < high, name


def test_draws_in_blocks_are_the_same_draws(monkeypatch):
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < 0.3).astype(np.int8)
    a, b = outcome(rng, labels), outcome(rng, labels)
    whole = paired_bootstrap(labels, a, b, n=40)
    monkeypatch.setattr("mmfeat.metrics.bootstrap._DRAWN", 400)
    for name, found in paired_bootstrap(labels, a, b, n=40).items():
        np.testing.assert_allclose(found, whole[name], atol=1e-12)


def test_what_is_not_of_the_same_rows_is_refused():
    labels = np.ones((3, 2), np.int8)
    one, other = (Outcome(*[np.zeros((n, 2), np.float32)] * 3) for n in (3, 4))
    with pytest.raises(MmfeatError, match="same rows"):
        paired_bootstrap(labels, one, other)
    with pytest.raises(MmfeatError, match="no labelled row"):
        paired_bootstrap(-labels, one, one)


# some rows against all


def test_some_rows_differ_from_all_by_their_own_metrics():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 4)) < 0.4).astype(np.int8)
    labels[:10] = -1
    logits = rng.normal(size=labels.shape).astype(np.float32) + np.where(labels == 1, 1.0, -1.0)
    outcome = Outcome((logits > 0).astype(np.int8), logits, logits)
    kept = rng.random(200) < 0.7
    found = subset_difference(labels, outcome, kept, n=200)
    rows = kept & (labels >= 0).any(1)
    part, whole = (
        WeightedMetrics(labels[some], Outcome(*(one[some] for one in outcome))).metrics(
            np.ones((1, some.sum()), np.float32)
        )
        for some in (rows, (labels >= 0).any(1))
    )
    for name in METRIC_NAMES:
        difference, low, high = found[name]
        assert difference == pytest.approx(float(part[name][0] - whole[name][0]), abs=1e-6)
        assert low <= high
    assert found["samples_f1"][1] < found["samples_f1"][0] < found["samples_f1"][2]


def test_all_rows_differ_by_nothing_and_none_is_an_error():
    labels = np.eye(4, dtype=np.int8)
    outcome = Outcome(labels, labels.astype(np.float32), labels.astype(np.float32))
    found = subset_difference(labels, outcome, np.ones(4, bool), n=50)
    assert all(value == 0 for values in found.values() for value in values)
    with pytest.raises(MmfeatError, match="no row with a known label is kept"):
        subset_difference(labels, outcome, np.zeros(4, bool))
