"""FusionClassifier: scikit-learn's own checks, several labels, modalities that are there or not."""

from __future__ import annotations

import doctest
import re

import numpy as np
import pytest
from helpers import ROOT
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mmfeat.estimator.classifier
from mmfeat import FusionClassifier
from mmfeat.heads import HEADS, takes

QUICK = {"lr": 0.1, "epochs": 4, "batch_size": 64, "random_state": 0, "device": "cpu"}


@parametrize_with_checks([FusionClassifier(**QUICK)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two modalities and three labels: of the first, of the second, of both."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(160, 6)), rng.normal(size=(160, 3))
    y = np.stack([image[:, 0] > 0, text[:, 0] > 0, image[:, 1] + text[:, 1] > 0], axis=1).astype(int)
    return image, text, y


def test_the_example_in_its_docstring():
    assert doctest.testmod(mmfeat.estimator.classifier).failed == 0


def test_a_dict_and_its_columns_are_one_model(arrays):
    image, text, y = arrays
    whole = np.hstack([image, text])
    columns = FusionClassifier("concat", modalities={"image": (0, 6), "text": slice(6, None)}, **QUICK).fit(whole, y)
    parts = FusionClassifier("concat", **QUICK).fit({"image": image, "text": text}, y)
    assert columns.modalities_ == parts.modalities_ == {"image": (0, 6), "text": (6, 9)}
    np.testing.assert_array_equal(columns.predict_proba(whole), parts.predict_proba({"text": text, "image": image}))
    np.testing.assert_array_equal(parts.predict_proba(whole[:7]), columns.predict_proba(whole)[:7])


@pytest.mark.parametrize("head", list(HEADS))
def test_every_head(arrays, head):
    """A row's logits do not depend on the rows beside it; of one modality only those heads are made that take it."""
    image, text, y = arrays
    x = {"image": image, "text": text}
    model = FusionClassifier(head, **{**QUICK, "epochs": 1}).fit(x, y)
    some = {name: rows[5:8] for name, rows in x.items()}
    np.testing.assert_allclose(model.decision_function(some), model.decision_function(x)[5:8], atol=1e-7)
    if not takes(head, 1):
        with pytest.raises(ValueError, match="two or more encoders"):
            FusionClassifier(head, **QUICK).fit(image, y)


def test_a_modality_that_is_not_there_says_nothing(arrays):
    image, text, y = arrays
    lacking = text.copy()
    lacking[::3] = np.nan
    model = FusionClassifier("concat", **QUICK).fit({"image": image, "text": lacking}, y)
    rows = [None if i % 3 == 0 else row for i, row in enumerate(text)]
    blank = np.full_like(text, np.nan)
    for same, other in ((lacking, rows), (blank, None)):
        a, b = (model.predict_proba({"image": image, "text": one}) for one in (same, other))
        np.testing.assert_array_equal(a, b)
    with_text = model.predict_proba({"image": image, "text": text})
    np.testing.assert_array_equal(with_text[1::3], model.predict_proba({"image": image, "text": lacking})[1::3])
    assert not np.array_equal(with_text[1::3], a[1::3])


def test_labels_that_are_not_known_teach_nothing(arrays):
    image, _, y = arrays
    some = y.copy()
    some[:40] = -1
    settings = {**QUICK, "validation_fraction": 0}
    model = FusionClassifier(**settings).fit(image, some)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert set(np.unique(model.predict(image))) <= {0, 1}
    half = some.copy()
    half[40:, 2] = -1
    unknown = FusionClassifier(**settings).fit(image, half).decision_function(image)[:, 2]
    np.testing.assert_allclose(unknown - unknown.mean(), 0, atol=0.5)  # nothing was said of it
    with pytest.raises(ValueError, match="none of 160 rows"):
        FusionClassifier(**settings).fit(image, np.full_like(y, -1))


def test_classes_by_their_names(arrays):
    image, text, y = arrays
    two, three = np.array(["no", "yes"])[y[:, 0]], np.array(["a", "b", "c"])[y[:, 0] + y[:, 2]]
    longer = {**QUICK, "epochs": 20, "validation_fraction": 0}
    binary = FusionClassifier(**longer).fit(image, two)
    assert binary.decision_function(image).shape == (160,)
    assert binary.score(image, two) > 0.9
    np.testing.assert_allclose(binary.predict_proba(image).sum(1), 1)
    assert (FusionClassifier(threshold=0.9, **QUICK).fit(image, two).predict(image) == "yes").mean() < 0.5
    many = FusionClassifier(**longer).fit(np.hstack([image, text]), three)
    assert many.score(np.hstack([image, text]), three) > 0.7
    np.testing.assert_allclose(many.predict_proba(np.hstack([image, text])).sum(1), 1)


def test_searches_pipelines_and_clones(arrays):
    image, text, y = arrays
    whole = np.hstack([image, text])
    model = FusionClassifier("concat", modalities={"image": (0, 6), "text": (6, 9)}, **QUICK)
    pipeline = make_pipeline(StandardScaler(), model)
    search = GridSearchCV(pipeline, {"fusionclassifier__lr": np.array([1e-6, 0.1])}, scoring="f1_samples", cv=2)
    search.fit(whole, y)
    assert search.best_params_ == {"fusionclassifier__lr": 0.1}
    again = clone(search.best_estimator_).fit(whole, y)
    np.testing.assert_array_equal(again.predict_proba(whole), search.predict_proba(whole))


def test_seeds_are_averaged_and_random_state_is_left_alone(arrays):
    import torch

    image, _, y = arrays
    before = torch.random.get_rng_state()
    three = FusionClassifier(n_seeds=3, **QUICK).fit(image, y)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(three.heads_) == len(three.best_epochs_) == 3
    one = FusionClassifier(**QUICK).fit(image, y)
    single = one.decision_function(image)
    three.heads_ = three.heads_[:1]
    np.testing.assert_allclose(three.decision_function(image), single, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"head": "forest"}, "Use one of: linear"),
        ({"head": "concat"}, "two"),
        ({"lr": -1.0}, "lr = -1"),
        ({"head_config": {"depth": 3}}, "unknown key 'depth'"),
        ({"metric": "auc"}, "samples-f1"),
        ({"threshold": 2}, "from 0 to 1"),
        ({"n_seeds": 0}, "from 1"),
        ({"device": "mps"}, "auto, cpu"),
        ({"modalities": {"image": (0, 99)}}, "columns 0 to 6"),
        ({"modalities": {"image": 3}}, "start, stop"),
        ({"modalities": {"a.b": (0, 3)}}, "letters"),
    ],
)
def test_parameters_that_cannot_be(arrays, settings, what):
    image, _, y = arrays
    with pytest.raises(ValueError, match=what):
        FusionClassifier(**{**QUICK, **settings}).fit(image, y)


def test_inputs_that_cannot_be(arrays):
    image, text, y = arrays
    model = FusionClassifier(**QUICK)
    partly = text.copy()
    partly[5, 1] = np.nan
    infinite = np.where(np.arange(3) == 1, np.inf, text)
    for x, what in (
        ({"image": image, "text": partly}, "1 row with NaN in some columns only .first: row 5"),
        ({"image": image, "text": infinite}, "infinity"),
        ({"image": image, "text": text[:9]}, "same number of rows"),
        ({"image": image, "text": None}, "rows of every modality"),
        ({}, "same number of rows"),
        (image * 1e200, "too large"),
    ):
        with pytest.raises(ValueError, match=what):
            model.fit(x, y)
    with pytest.raises(ValueError, match="columns of 0, 1 and -1"):
        model.fit(image, y * 2)
    with pytest.raises(NotFittedError):
        FusionClassifier().predict(image)
    model.fit({"image": image, "text": text}, y)
    with pytest.raises(ValueError, match="the fit had"):
        model.predict({"image": image})
    with pytest.raises(ValueError, match="has 3 features, the fit had 6"):
        model.predict({"image": text, "text": text})


def test_the_code_of_its_document_runs(capsys):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["probabilities"].shape == (200, 3)
    assert "lr" in capsys.readouterr().out
