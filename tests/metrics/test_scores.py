"""Figures agree with scikit-learn where it defines them, and what is not known counts for nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.memory import peak_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_score, recall_score

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import decide, sigmoid
from mmfeat.common.losses import masked_loss
from mmfeat.config.schema import METRICS
from mmfeat.metrics import (
    Scores,
    better,
    bootstrap_mean,
    most_frequent_baseline,
    paired_difference,
    samples_f1_rows,
    scores,
    scoring,
)

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")

CLOSE = {"rtol": 0, "atol": 1e-9}


@st.composite
def predictions(draw, lowest: int = -1, classes: int = 1):
    """Labels, decisions and logits with many ties; at least one label is known."""
    shape = draw(st.integers(1, 9)), draw(st.integers(classes, 5))
    labels = draw(arrays(np.int8, shape, elements=st.integers(lowest, 1)).filter(lambda x: (x >= 0).any()))
    decided = draw(arrays(np.int8, shape, elements=st.integers(0, 1)))
    logits = draw(arrays(np.float32, shape, elements=st.sampled_from([-50.0, -2.0, -0.5, -0.0, 0.0, 0.5, 3.0])))
    return labels, decided, logits


def same(a: Scores, b: Scores) -> None:
    for name, value in vars(a).items():
        np.testing.assert_allclose(value, getattr(b, name), err_msg=name, **CLOSE)


def agrees_with_sklearn(labels: np.ndarray, decided: np.ndarray, logits: np.ndarray) -> None:
    found, kept = scores(labels, decided, logits), np.flatnonzero(labels.any(0))
    each = {"average": None, "zero_division": 0}
    np.testing.assert_allclose(found.class_f1, f1_score(labels, decided, **each), **CLOSE)
    np.testing.assert_allclose(found.class_precision, precision_score(labels, decided, **each), **CLOSE)
    np.testing.assert_allclose(found.class_recall, recall_score(labels, decided, **each), **CLOSE)
    ap = [average_precision_score(labels[:, k], logits[:, k]) for k in kept]
    np.testing.assert_allclose(found.class_ap[kept], ap, **CLOSE)
    macro = f1_score(labels, decided, labels=kept, average="macro", zero_division=0) if len(kept) else 0.0
    expected = {
        "samples_f1": f1_score(labels, decided, average="samples", zero_division=1),
        "micro_f1": f1_score(labels, decided, average="micro", zero_division=0),
        "macro_f1": macro,
        "map": np.mean(ap) if len(kept) else 0.0,
        "label_set_accuracy": accuracy_score(labels, decided),
        "accuracy_per_class": np.mean([accuracy_score(labels[:, k], decided[:, k]) for k in range(labels.shape[1])]),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name
    assert found.n_classes_left_out == labels.shape[1] - len(kept)
    assert found.n_positives.tolist() == labels.sum(0).tolist()
    assert found.n_samples == len(labels)


@given(predictions(lowest=0, classes=2))
def test_they_agree_with_scikit_learn(case):
    agrees_with_sklearn(*case)


def test_they_agree_with_scikit_learn_on_many_rows():
    rng = np.random.default_rng(0)
    labels = (rng.random((3000, 12)) < np.linspace(0, 0.6, 12)).astype(np.int8)  # the first class has no positive
    logits = (3 * labels - 2 + rng.normal(size=labels.shape)).astype(np.float32)
    agrees_with_sklearn(labels, decide(sigmoid(logits)), logits)
    agrees_with_sklearn(labels, decide(sigmoid(logits)), logits.round(1).astype(np.float64))


@pytest.mark.parametrize("positives", [0, 1, 6])
@pytest.mark.parametrize("said", [0, 1])
def test_degenerate_cases_agree_with_scikit_learn(positives, said):
    labels = np.zeros((6, 3), np.int8)
    labels[:positives] = 1
    decided = np.full_like(labels, said)
    agrees_with_sklearn(labels, decided, np.zeros(labels.shape, np.float32))  # constant scores
    agrees_with_sklearn(labels[:1], decided[:1], np.ones((1, 3), np.float32))  # one row


@given(predictions(lowest=0))
def test_one_class_alone_has_the_figures_it_has_among_others(case):
    labels, decided, logits = case
    found = scores(labels, decided, logits)
    for k in range(labels.shape[1]):
        one = scores(labels[:, [k]], decided[:, [k]], logits[:, [k]])
        for name in ("class_f1", "class_precision", "class_recall", "class_ap", "class_accuracy", "n_positives"):
            np.testing.assert_allclose(getattr(one, name)[0], getattr(found, name)[k], **CLOSE)
        assert one.micro_f1 == pytest.approx(found.class_f1[k], abs=1e-9)


@given(predictions())
def test_the_loss_is_that_of_training(case):
    labels, decided, logits = case
    expected = masked_loss(torch.as_tensor(logits).double(), torch.as_tensor(labels))
    assert scores(labels, decided, logits).loss == pytest.approx(float(expected), abs=1e-9)


@given(predictions())
def test_what_is_not_known_counts_for_nothing(case):
    labels, decided, logits = case
    unknown = labels < 0
    changed = np.where(unknown, 1 - decided, decided), np.where(unknown, 1 - 2 * logits, logits)
    same(scores(labels, decided, logits), scores(labels, *changed))
    assert (samples_f1_rows(labels, decided) == samples_f1_rows(labels, changed[0])).all()


@given(predictions())
def test_a_row_without_a_known_label_is_left_out(case):
    labels, decided, logits = case
    rows = (labels >= 0).any(1)
    found = scores(labels, decided, logits)
    assert found.n_samples == rows.sum()
    same(found, scores(labels[rows], decided[rows], logits[rows]))
    hidden = logits.copy()
    hidden[~rows] = np.nan
    same(found, scores(labels, decided, hidden))


@given(predictions())
def test_figures_are_shares_and_the_order_of_the_rows_does_not_matter(case):
    labels, decided, logits = case
    found = scores(labels, decided, logits)
    for name in ("samples_f1", "micro_f1", "macro_f1", "map", "accuracy_per_class", "label_set_accuracy"):
        assert 0 <= getattr(found, name) <= 1
    assert found.loss >= 0
    same(found, scores(labels[::-1], decided[::-1], logits[::-1]))


@given(predictions())
def test_the_truth_scores_one(case):
    labels, _, _ = case
    found = scores(labels, (labels == 1).astype(np.int8), np.where(labels == 1, 60.0, -60.0))
    assert found.samples_f1 == found.label_set_accuracy == found.accuracy_per_class == 1
    assert found.loss < 1e-9
    if (labels == 1).any():
        assert found.micro_f1 == found.macro_f1 == 1
        assert found.map == pytest.approx(1, abs=1e-12)


@given(predictions())
def test_ap_reads_the_order_alone(case):
    labels, decided, logits = case
    np.testing.assert_allclose(
        scores(labels, decided, logits).class_ap, scores(labels, decided, 3 * logits + 8).class_ap, **CLOSE
    )


@given(predictions())
def test_f1_of_rows_is_what_samples_f1_is_the_mean_of(case):
    labels, decided, logits = case
    rows = samples_f1_rows(labels, decided)
    assert rows.shape == ((labels >= 0).any(1).sum(),)
    assert rows.mean() == pytest.approx(scores(labels, decided, logits).samples_f1, abs=1e-12)


def test_an_empty_row_predicted_empty_counts_one_and_otherwise_nought():
    labels, decided = np.int8([[0, 0], [0, 0], [-1, 0], [-1, -1]]), np.int8([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert samples_f1_rows(labels, decided).tolist() == [1, 0, 1]


@given(predictions())
def test_they_are_json_and_every_metric_has_its_value(case):
    found = scores(*case)
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    for metric in METRICS:
        assert found.value(metric) == written[metric.replace("-", "_")]
    assert [v is None for v in written["class_ap"]] == (found.n_positives == 0).tolist()
    assert written["n_positives"] == found.n_positives.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_better_is_lower_for_the_loss_alone_and_strict(metric):
    assert better(metric, 0.2, 0.1) == (metric != "loss")
    assert better(metric, 0.1, 0.2) == (metric == "loss")
    assert not better(metric, 0.1, 0.1)


@given(predictions(), st.integers(0, 6))
def test_the_weakest_classes_are_those_of_lowest_f1_that_have_a_positive(case, n):
    found = scores(*case)
    weakest = found.weakest(n)
    kept = found.n_positives > 0
    assert [f1 for _, f1, _ in weakest] == sorted(found.class_f1[kept])[:n]
    for k, f1, positives in weakest:
        assert (f1, positives) == (found.class_f1[k], found.n_positives[k])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_an_error_that_names_its_row(bad):
    labels, logits = np.int8([[1, 0], [-1, 1], [0, 1]]), np.zeros((3, 2), np.float32)
    logits[1, 0] = bad
    with pytest.raises(MmfeatError, match=r"1 of 3 rows.*row 1"):
        scores(labels, labels == 1, logits)


def test_arrays_that_do_not_belong_together_are_refused():
    labels = np.zeros((3, 2), np.int8)
    with pytest.raises(MmfeatError, match="shape"):
        scores(labels, labels, np.zeros((3, 1)))
    with pytest.raises(MmfeatError, match="shape"):
        scores(labels, labels[:2], np.zeros((3, 2)))
    for nothing in (np.full((3, 2), -1, np.int8), np.zeros((0, 2), np.int8)):
        with pytest.raises(MmfeatError, match="no labelled row"):
            scores(nothing, nothing, np.zeros(nothing.shape))


def test_memory_is_bounded_and_the_size_of_a_block_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 100)).astype(np.float32)
    labels = (rng.random(logits.shape) < 0.1).astype(np.int8)
    decided = decide(sigmoid(logits), 0.9)
    monkeypatch.setattr(scoring, "_BLOCK", 10_000)
    found = []
    peak = peak_bytes(lambda: found.append(scores(labels, decided, logits)))
    (small,) = found
    assert peak < 2 * (labels.nbytes + decided.nbytes + logits.nbytes)
    monkeypatch.setattr(scoring, "_BLOCK", 10**9)
    same(small, scores(labels, decided, logits))


few = arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0.0, 0.4, 0.5, 2 / 3, 0.8, 1.0]))


@given(few)
@settings(max_examples=30)
def test_the_interval_lies_among_the_values_and_is_a_function_of_the_seed(values):
    low, high = bootstrap_mean(values)
    slack = 1e-12
    assert values.min() - slack <= low <= high <= values.max() + slack
    assert bootstrap_mean(values) == (low, high)
    assert bootstrap_mean(values[::-1]) == (low, high)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("n", [1, 3, 7, 1000])
def test_values_that_are_all_equal_have_no_spread(value, n):
    assert bootstrap_mean(np.full(n, value)) == (value, value)


def test_the_interval_is_that_of_drawing_rows():
    rng = np.random.default_rng(1)
    values = rng.choice([0, 0.5, 2 / 3, 1], 400, p=[0.1, 0.2, 0.3, 0.4])
    drawn = values[rng.integers(0, len(values), (20_000, len(values)))].mean(1)
    expected = np.quantile(drawn, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_mean(values, n=20_000), expected, atol=0.04 * (expected[1] - expected[0]))


def test_more_rows_give_a_narrower_interval_and_a_seed_another():
    values = np.tile([0.0, 1.0, 0.5, 1.0], 25)
    width = np.diff(bootstrap_mean(values))[0]
    assert np.diff(bootstrap_mean(np.tile(values, 100)))[0] == pytest.approx(width / 10, rel=0.15)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=0)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_mean(values)
    monkeypatch.setattr("mmfeat.metrics.bootstrap._BLOCK", 170)
    assert bootstrap_mean(values) == pytest.approx(whole, abs=1e-12)


def test_a_million_rows_fit_in_little_memory():
    values = np.random.default_rng(0).choice([0, 0.5, 2 / 3, 1], 1_000_000)
    assert peak_bytes(lambda: bootstrap_mean(values)) < 8 * values.nbytes


@pytest.mark.parametrize("values", [np.zeros(0), np.array([0.5, np.nan]), np.array([np.inf])])
def test_what_has_no_mean_has_no_interval(values):
    with pytest.raises(MmfeatError, match="finite"):
        bootstrap_mean(values)


@given(few, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_paired_difference_is_that_of_the_means_and_turns_with_its_sides(a, random):
    b = np.array(random.sample(a.tolist(), len(a))) * 0.9
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert paired_difference(b, a)[0] == pytest.approx(-difference, abs=1e-12)
    assert (a - b).min() - 1e-12 <= low <= high <= (a - b).max() + 1e-12
    assert paired_difference(a, a) == (0, 0, 0)


def test_pairing_shows_a_small_steady_difference():
    a = np.random.default_rng(0).random(500)
    steady, low, high = paired_difference(a, a - 0.01)
    assert steady == pytest.approx(0.01)
    assert low > 0
    assert high - low < 1e-6 < np.diff(bootstrap_mean(a))[0]


def test_unpaired_rows_are_refused():
    for a, b in ((np.zeros(3), np.zeros(1)), (np.zeros(1), np.zeros(3))):
        with pytest.raises(MmfeatError, match="same rows"):
            paired_difference(a, b)


@given(predictions(), st.sampled_from([0.001, 0.2, 0.5, 0.8, 0.999]), st.sampled_from(["most-probable", "none"]))
def test_the_baseline_says_the_commonest_class_and_only_that_at_any_threshold(case, threshold, empty):
    labels, _, _ = case
    logits = most_frequent_baseline(labels, 4)
    assert logits.dtype == np.float32
    assert logits.shape == (4, labels.shape[1])
    decided = decide(sigmoid(logits), threshold, empty)
    assert (decided.sum(1) == 1).all()
    positives = (labels == 1).sum(0)
    assert (decided.argmax(1) == positives.tolist().index(positives.max())).all()


def test_the_baseline_has_as_many_rows_as_asked():
    assert most_frequent_baseline(np.int8([[0, 1]]), 0).shape == (0, 2)
    assert np.isfinite(most_frequent_baseline(np.full((2, 3), -1, np.int8), 2)).all()


def test_f1_of_rows_wants_equal_shapes():
    with pytest.raises(MmfeatError, match=r"\(3, 2\).*\(3, 4\)"):
        samples_f1_rows(np.zeros((3, 2), np.int8), np.zeros((3, 4), np.int8))
