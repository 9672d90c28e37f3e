"""SelfTrainingFusionClassifier: the invariants of scikit-learn's own tests of self-training."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from sklearn.base import clone

import mmfeat.estimator.self_training_classifier
from mmfeat import FusionClassifier, SelfTrainingFusionClassifier
from mmfeat.config.schema import POLICIES

BASE = FusionClassifier("concat", modalities={"image": (0, 6), "text": (6, 9)}, epochs=4, batch_size=64, random_state=0)


def rows(kind="multilabel"):
    """Some of 200 rows with labels; the truth of all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 9))
    y = np.stack([x[:, 0] > 0, x[:, 6] > 0.5, x[:, 1] + x[:, 7] > 0], axis=1).astype(int)
    truth = {"multilabel": y, "binary": y[:, 0], "multiclass": y.sum(1)}[kind]
    given = truth.copy()
    given[80:] = -1
    return x, given, truth


def test_the_example_in_its_docstring():
    assert doctest.testmod(mmfeat.estimator.self_training_classifier).failed == 0


@pytest.mark.parametrize("kind", ["multilabel", "binary", "multiclass"])
@pytest.mark.parametrize("policy", POLICIES)
def test_given_labels_never_change(kind, policy):
    x, y, truth = rows(kind)
    model = SelfTrainingFusionClassifier(BASE, policy=policy, max_iter=2).fit(x, y)
    assert np.array_equal(model.transduction_[:80], y[:80])
    assert (model.labeled_iter_[:80] == 0).all()
    assert set(model.labeled_iter_[80:]) <= {-1, *range(1, model.n_iter_ + 1)}
    unlabelled = model.transduction_ == -1 if y.ndim == 1 else (model.transduction_ == -1).all(1)
    assert np.array_equal(unlabelled, model.labeled_iter_ == -1)
    assert model.termination_condition_ in ("max_iter", "no_change", "reverted")
    assert model.predict(x).shape == truth.shape
    assert np.array_equal(clone(model).fit(x, y).predict_proba(x), model.predict_proba(x))


@pytest.mark.parametrize("kind", ["multilabel", "binary", "multiclass"])
def test_zero_rounds_and_no_unlabelled_row_are_the_supervised_fit(kind):
    x, y, truth = rows(kind)
    supervised = clone(BASE).fit(x, truth)
    everything = SelfTrainingFusionClassifier(BASE).fit(x, truth)
    assert np.array_equal(everything.predict_proba(x), supervised.predict_proba(x))
    assert (everything.n_iter_, everything.termination_condition_) == (0, "all_labeled")
    none = SelfTrainingFusionClassifier(BASE, max_iter=0).fit(x, y)
    assert (none.labeled_iter_[80:] == -1).all()
    if kind == "multilabel":
        assert np.array_equal(none.predict_proba(x), clone(BASE).fit(x, y).predict_proba(x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"policy": "none"}, "policy = 'none'"), ({"max_iter": -1}, "max_iter = -1"), ({"max_iter": 1.5}, "max_iter")],
)
def test_parameters_that_cannot_be_used(changes, said):
    x, y, _ = rows()
    with pytest.raises(ValueError, match=said):
        SelfTrainingFusionClassifier(BASE, **changes).fit(x, y)


def test_labels_that_cannot_be_used():
    x, y, _ = rows()
    with pytest.raises(ValueError, match="none of 200 rows"):
        SelfTrainingFusionClassifier(BASE).fit(x, np.full_like(y, -1))
    few = y.copy()
    few[5:] = -1
    with pytest.raises(ValueError, match="validation_fraction"):
        SelfTrainingFusionClassifier(BASE).fit(x, few)
