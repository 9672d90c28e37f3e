"""The fast cross-fitted value of a metric equals the slow one, threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmfeat.common.labels import decide
from mmfeat.config.schema import PredictConfig
from mmfeat.metrics import scores
from mmfeat.metrics.crossfit import FOLDS
from mmfeat.metrics.fast_metric import metric_values
from mmfeat.metrics.grid_thresholds import GRID, crossfitted_value
from mmfeat.metrics.thresholds import TUNED_FOR


@st.composite
def cases(draw):
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    labels = draw(arrays(np.int8, shape, elements=st.integers(-1, 1)).filter(lambda x: (x >= 0).any()))
    probs = draw(arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.02, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0])))
    return labels, probs


def slow_value(metric, labels, probs, empty):
    kept = (labels >= 0).any(1)
    labels, probs = labels[kept], probs[kept]
    fold, predicted = np.arange(len(labels)) % FOLDS, np.zeros_like(labels)
    for f in range(FOLDS):
        others = labels[fold != f], probs[fold != f]
        if (metric != "samples-f1" and not (others[0] == 1).any()) or not len(others[0]):
            values = np.zeros(len(GRID))
        else:
            values = np.array([scores(others[0], decide(others[1], t, empty), others[1]).value(metric) for t in GRID])
        best = np.flatnonzero(values >= values.max() - 1e-12)
        at = best[np.abs(GRID[best] - 0.5).argmin()]
        predicted[fold == f] = decide(probs[fold == f], GRID[at], empty)
    return scores(labels, predicted, probs).value(metric)


@given(cases(), st.sampled_from(TUNED_FOR), st.sampled_from(["most-probable", "none"]))
def test_it_equals_trying_every_threshold_on_the_other_folds(case, metric, empty):
    labels, probs = case
    if metric != "samples-f1" and not (labels == 1).any():
        assert crossfitted_value(metric, labels, probs, empty) == 0.0
        return
    assert crossfitted_value(metric, labels, probs, empty) == pytest.approx(slow_value(metric, labels, probs, empty))


def test_selection_with_auto_scores_each_model_at_its_own_threshold():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 4)) < 0.2).astype(np.int8)
    sharp = (6 * labels - 3 + rng.normal(size=labels.shape)).astype(np.float32)
    shifted = sharp - 4  # the same ranking, far below 0.5
    at_half = metric_values("samples-f1", labels, np.stack([sharp, shifted]), rule=PredictConfig(empty="none"))
    auto = metric_values("samples-f1", labels, np.stack([sharp, shifted]), rule=PredictConfig("auto", "none"))
    assert at_half[1] < at_half[0] - 0.2
    assert auto[1] == pytest.approx(auto[0], abs=0.02)
    assert (auto >= at_half - 0.01).all()


def test_metrics_without_a_threshold_are_the_same_with_auto():
    rng = np.random.default_rng(1)
    labels, logits = (rng.random((50, 3)) < 0.4).astype(np.int8), rng.normal(size=(1, 50, 3)).astype(np.float32)
    for metric in ("map", "loss"):
        plain, auto = (metric_values(metric, labels, logits, rule=PredictConfig(t)) for t in (0.5, "auto"))
        assert plain == auto
    with pytest.raises(ValueError, match="map"):
        crossfitted_value("map", labels, logits[0], "none")
