"""Predictions by the kernel without a row's own label, in closed form, against fits without the row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mmfeat.heads.training.fit_heads import FitData
from mmfeat.selftraining import kernel
from mmfeat.selftraining.kernel import _fit, _kernel, held_out_logits


def small(n: int = 40, seed: int = 0) -> FitData:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    labels = torch.as_tensor((x[:, :3] + rng.normal(0, 0.3, (n, 3)) > 0).astype(np.int8))
    numbers = rng.permutation(n).astype(np.uint64)
    present = torch.ones(n, dtype=torch.bool)
    return FitData({"a": torch.as_tensor(x)}, {"a": present}, labels, numbers, np.arange(n), np.zeros(0, int))


@pytest.mark.parametrize("groups", [np.arange(40), np.arange(40) // 3, np.where(np.arange(40) < 9, 0, np.arange(40))])
def test_held_out_predictions_are_those_of_fits_without_the_group(groups):
    data = small()
    x, rows = data.inputs["a"], np.arange(40)
    fitted = _fit(x, data, rows, ridges=(1.0,))
    found = fitted.held_out(groups)
    for number in np.unique(groups):
        out, others = np.flatnonzero(groups == number), np.flatnonzero(groups != number)
        matrix = _kernel(x[others], x[others]) + torch.eye(len(others))
        alone = _kernel(x[out], x[others]) @ torch.linalg.solve(matrix, fitted.residual[others])
        assert np.allclose(found[out], alone.numpy(), atol=1e-4)


def test_a_label_changes_other_rows_predictions_and_not_its_own(monkeypatch):
    data = small()
    labels = data.labels.clone()
    labels[5] = 1 - labels[5]
    fits = [
        _fit(one.inputs["a"], one, np.arange(40), ridges=(1.0,))
        for one in (data, dataclasses.replace(data, labels=labels))
    ]
    first, second = (fit.held_out() for fit in fits)
    means = [fit.residual[0].numpy() - fit.labels[0] for fit in fits]
    moved = np.abs((first - means[0]) - (second - means[1])) > 1e-4
    assert moved.any()
    assert np.abs(first[5] - second[5]).max() < 0.05  # the mean of the labels alone


def test_many_rows_are_fitted_in_parts_whatever_their_order(monkeypatch):
    monkeypatch.setattr(kernel, "MOST_ROWS", 15)
    data = small()
    found = held_out_logits(data, np.arange(40))
    assert np.isfinite(found).all()
    assert ((found > 0) == (data.labels.numpy() == 1)).mean() > 0.6
    turned = dataclasses.replace(data, train=data.train[::-1].copy())
    assert np.array_equal(found, held_out_logits(turned, np.arange(40)))
    some = dataclasses.replace(data, train=data.train[:20])
    assert not held_out_logits(some, np.arange(40))[20:].any()
