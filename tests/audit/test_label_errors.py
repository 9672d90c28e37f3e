"""Label errors: agreement with cleanlab where all labels are known, unknown labels, and what several models tell together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.audit.label_errors import (
    confident_errors,
    label_quality,
    self_confidence,
    suspicious,
)
from mmfeat.audit.label_noise import class_blocks, fit_label_noise
from mmfeat.audit.other_labels import logits_by_other_labels
from mmfeat.common.labels import sigmoid


def noisy(seed: int = 0, n: int = 2000, k: int = 6, flipped: float = 0.05):
    """True labels, given labels with flipped ones, and logits `(3, n, k)` of three models that know the truth in part."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.05, 0.5, k)
    truth = (rng.random((n, k)) < shares).astype(np.int8)
    given_labels = np.where(rng.random((n, k)) < flipped, 1 - truth, truth).astype(np.int8)
    centre = np.log(shares / (1 - shares))
    logits = np.stack([centre + (truth - shares) * 5 + rng.normal(0, spread, (n, k)) for spread in (1.5, 2.5, 2.5)])
    return truth, given_labels, logits.astype(np.float32)


def as_lists(labels: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row == 1).tolist() for row in labels]


def average_precision(wrong: np.ndarray, quality: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(wrong.ravel(), 1 - quality.ravel()))


def test_the_scores_of_labels_are_those_of_cleanlab():
    rank = pytest.importorskip("cleanlab.multilabel_classification.rank")
    _, labels, logits = noisy()
    probs = sigmoid(logits[0])
    theirs = rank.get_label_quality_scores_per_class(as_lists(labels), probs, method="self_confidence")
    ours = self_confidence(labels, probs)
    assert np.allclose(ours, theirs, atol=1e-6)
    assert (
        np.argsort(ours, axis=0, kind="stable") == np.argsort(theirs.astype(ours.dtype), axis=0, kind="stable")
    ).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_estimates_are_those_of_cleanlab(seed):
    count = pytest.importorskip("cleanlab.count")
    _, labels, logits = noisy(seed)
    probs = sigmoid(logits[0]).astype(np.float64)
    ours = confident_errors(labels, probs)
    for k in range(labels.shape[1]):
        both = np.stack([1 - probs[:, k], probs[:, k]], axis=1)
        joint = count.compute_confident_joint(labels[:, k], both, calibrate=True)
        assert ours.positives[k] == joint[1].sum()
        assert ours.negatives[k] == joint[0].sum()
        assert ours.wrong_positives[k] == pytest.approx(joint[1, 0], rel=0.03, abs=1)
        assert ours.wrong_negatives[k] == pytest.approx(joint[0, 1], rel=0.03, abs=1)


def test_a_class_without_positives_and_one_without_known_labels_have_no_errors():
    labels = np.zeros((20, 3), np.int8)
    labels[:, 1] = -1
    labels[:10, 2] = 1
    probs = np.full((20, 3), 0.9, np.float32)
    found = confident_errors(labels, probs)
    assert found.positives.tolist() == [0, 0, 10]
    assert found.negatives.tolist() == [20, 0, 10]
    assert found.wrong_positives.tolist() == [0, 0, 0]
    assert found.wrong_negatives[1] == 0
    quality = label_quality(labels, np.log(probs / (1 - probs))[None])
    assert np.isnan(quality[:, 1]).all()
    assert not suspicious(quality)[:, 1].any()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_unknown_labels_change_nothing_about_the_known_ones_of_other_classes(seed):
    _, labels, logits = noisy(seed, n=200)
    some = labels.copy()
    some[:, 0] = np.where(np.random.default_rng(seed).random(200) < 0.5, -1, labels[:, 0])
    first, second = (confident_errors(one, sigmoid(logits[0])) for one in (labels, some))
    assert (first.wrong[1:] == second.wrong[1:]).all()
    rows = some[:, 0] >= 0
    alone = confident_errors(labels[rows][:, :1], sigmoid(logits[0])[rows][:, :1])
    assert alone.wrong[0] == second.wrong[0]
    quality = label_quality(some, logits)
    assert (np.isnan(quality) == (some < 0)).all()
    assert (np.isnan(quality) | ((quality >= 0) & (quality <= 1))).all()


@pytest.mark.parametrize("flipped", [0.02, 0.05, 0.1])
def test_three_models_together_find_more_than_cleanlab_by_the_best_of_them(flipped):
    truth, labels, logits = noisy(7, n=4000, flipped=flipped)
    wrong = labels != truth
    theirs = average_precision(wrong, self_confidence(labels, sigmoid(logits[0])))
    same = average_precision(wrong, label_quality(labels, logits[:1]))
    together = average_precision(wrong, label_quality(labels, logits))
    assert same >= 0.98 * theirs
    assert together > theirs


def test_as_many_labels_are_listed_as_are_expected_to_be_wrong_those_of_lowest_quality():
    truth, labels, logits = noisy(3)
    labels[:100, 2] = -1
    quality = label_quality(labels, logits)
    listed = suspicious(quality)
    assert listed.sum() == round(float(np.nansum(1 - quality)))
    assert not (listed & (labels < 0)).any()
    assert quality[listed].max() <= np.nanmin(quality[~listed & (labels >= 0)])
    planted = ((truth != labels) & (labels >= 0)).sum()
    assert listed.sum() == pytest.approx(planted, rel=0.2)
    assert (truth != labels)[listed].mean() > 0.85


def test_all_classes_are_in_one_block_or_another(monkeypatch):
    monkeypatch.setattr("mmfeat.audit.label_errors._CELLS", 10)
    blocks = [list(range(7))[block] for block in class_blocks((4, 7), 10)]
    assert [k for block in blocks for k in block] == list(range(7))
    assert max(map(len, blocks)) == 2
    _, labels, logits = noisy()
    in_blocks = confident_errors(labels, sigmoid(logits[0]))
    monkeypatch.undo()
    assert (in_blocks.wrong == confident_errors(labels, sigmoid(logits[0])).wrong).all()


def test_the_ends_of_the_curve_tell_how_many_labels_are_wrong():
    truth, _, logits = noisy(1, n=6000)
    rng = np.random.default_rng(0)
    labels = np.where((truth == 1) & (rng.random(truth.shape) < 0.15), 0, truth).astype(np.int8)
    found = fit_label_noise(labels, list(logits))
    assert found.missed.mean() == pytest.approx(0.15, abs=0.03)
    assert (found.added < 0.01).all()
    quality = 1 - found.wrong(labels, list(logits))
    assert quality[labels == 1].min() > 0.5  # nothing was added: a surprising positive is right
    theirs = average_precision(labels != truth, self_confidence(labels, sigmoid(logits.mean(0))))
    assert average_precision(labels != truth, quality) > theirs


def test_the_order_of_the_models_and_a_model_without_information_hardly_matter():
    truth, labels, logits = noisy(2)
    first, second = (label_quality(labels, list(some)) for some in (logits, logits[::-1]))
    assert np.allclose(first, second, atol=1e-3)
    noise = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    with_noise = average_precision(labels != truth, label_quality(labels, [*logits, noise]))
    assert with_noise > average_precision(labels != truth, first) - 0.01


def test_many_labels_are_fitted_on_some_of_the_rows(monkeypatch):
    truth, labels, logits = noisy(4)
    whole = average_precision(labels != truth, label_quality(labels, logits))
    monkeypatch.setattr("mmfeat.audit.label_noise._FITTED", labels.size // 4)
    assert average_precision(labels != truth, label_quality(labels, logits)) > whole - 0.02


def test_a_label_is_predicted_by_the_others_of_its_row_and_not_by_itself():
    rng = np.random.default_rng(0)
    first = (rng.random(3000) < 0.3).astype(np.int8)
    both = np.stack([first, np.where(rng.random(3000) < 0.1, 1 - first, first), rng.random(3000) < 0.5], 1).astype(
        np.int8
    )
    found = logits_by_other_labels(both)
    assert ((found[:, 1] > 0) == (both[:, 0] == 1)).all()
    assert np.abs(found[:, 2]).max() < 0.5  # independent of both
    changed = both.copy()
    changed[7, 1] = 1 - changed[7, 1]
    assert np.abs(logits_by_other_labels(changed)[7, 1] - found[7, 1]) < 0.05
    unknown = both.copy()
    unknown[:, 2] = -1
    assert np.isfinite(logits_by_other_labels(unknown)).all()
    assert logits_by_other_labels(both[:, :1]) is None
