"""Class weights are defined everywhere, and what is not known teaches nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.nn import functional

from mmfeat.common.losses import class_weights, masked_loss

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")

shapes = array_shapes(min_dims=2, max_dims=2, max_side=7)
partly_known = arrays(np.int8, shapes, elements=st.integers(-1, 1))
logits_like = st.floats(-30, 30, width=32)


def labels_of(*positives: int) -> np.ndarray:
    """As many positives in each class as said."""
    labels = np.zeros((max(*positives, 1), len(positives)), dtype=np.int8)
    for k, n in enumerate(positives):
        labels[:n, k] = 1
    return labels


def test_weights_are_the_papers():
    positives = (40, 7, 2, 300)
    total = sum(positives)
    expected = [(math.log(n) / math.log(total) + math.log(total) / math.log(n)) / 2 for n in positives]
    weights = class_weights(labels_of(*positives))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_the_ends_are_defined():
    one, two, none, many = class_weights(labels_of(1, 2, 0, 500))
    assert one == two > many > none == 1
    assert class_weights(labels_of(1, 0)).tolist() == [1, 1]  # T = 1
    assert class_weights(labels_of(1, 1)).tolist() == [1, 1]
    assert class_weights(labels_of(9)).tolist() == [1]  # n = T
    assert class_weights(np.full((3, 2), -1, np.int8)).tolist() == [1, 1]
    assert class_weights(np.zeros((0, 2), np.int8)).tolist() == [1, 1]


@given(partly_known)
def test_weights_are_finite_at_least_one_and_larger_for_rarer_classes(labels):
    weights, positives = class_weights(labels), (labels == 1).sum(0)
    assert np.isfinite(weights).all()
    assert (weights >= 1).all()
    rarest_first = np.argsort(np.where(positives > 0, positives, positives.sum() + 1), kind="stable")
    assert (np.diff(weights[rarest_first]) <= 1e-6).all()


@given(partly_known)
def test_weights_count_positives_alone(labels):
    assert (class_weights(labels) == class_weights(np.where(labels == 1, 1, 0))).all()
    order = np.arange(labels.shape[1])[::-1]
    assert (class_weights(labels)[order] == class_weights(labels[:, order])).all()


@given(arrays(np.int8, shapes, elements=st.integers(0, 1)), st.data())
def test_where_all_is_known_it_is_torchs_loss(labels, data):
    logits = torch.as_tensor(data.draw(arrays(np.float32, labels.shape, elements=logits_like)))
    target = torch.as_tensor(labels)
    expected = functional.binary_cross_entropy_with_logits(logits, target.float())
    torch.testing.assert_close(masked_loss(logits, target), expected)


@given(partly_known, st.data())
def test_the_loss_is_that_of_the_known_labels_alone(labels, data):
    logits = torch.as_tensor(data.draw(arrays(np.float32, labels.shape, elements=logits_like))).requires_grad_()
    weights = torch.linspace(1, 2, labels.shape[1])
    target = torch.as_tensor(labels)
    known = target >= 0
    loss = masked_loss(logits, target, weights)
    loss.backward()
    gradient = logits.grad.clone()
    assert (gradient[~known] == 0).all()
    if not known.any():
        assert loss == 0
        return
    each = functional.binary_cross_entropy_with_logits(logits.detach()[known], target[known].float(), reduction="none")
    w = weights.expand(target.shape)[known]
    torch.testing.assert_close(loss.detach(), (each * w).sum() / w.sum())
    expected = (torch.sigmoid(logits.detach()) - target) * weights / w.sum()
    torch.testing.assert_close(gradient[known], expected[known], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("label", [-1, 1])
def test_an_unknown_label_hides_whatever_its_logit_is(bad, label):
    logits = torch.tensor([[bad, 0.5]], requires_grad=True)
    loss = masked_loss(logits, torch.tensor([[-1, label]], dtype=torch.int8), torch.ones(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] == 0
    assert (loss == 0) == (label == -1)


def test_a_known_labels_bad_logit_is_not_hidden():
    assert torch.isnan(masked_loss(torch.tensor([[float("nan")]]), torch.tensor([[1]])))


def test_targets_may_lie_between_no_and_yes():
    logits, soft = torch.tensor([[0.3, -2.0, 1.0]]), torch.tensor([[0.25, 1.0, -1.0]])
    expected = functional.binary_cross_entropy_with_logits(logits[:, :2], soft[:, :2])
    torch.testing.assert_close(masked_loss(logits, soft), expected)
    assert masked_loss(logits, soft) != masked_loss(logits, soft.round())


def test_only_the_ratio_of_the_weights_counts():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.randint(-1, 2, (5, 3))
    weights = torch.tensor([1.0, 2.0, 5.0])
    torch.testing.assert_close(masked_loss(logits, labels, weights), masked_loss(logits, labels, 10 * weights))
    torch.testing.assert_close(masked_loss(logits, labels, torch.full((3,), 7.0)), masked_loss(logits, labels))
    assert masked_loss(logits, labels, weights) != masked_loss(logits, labels)


def test_leading_dimensions_are_more_rows():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(2, 5, 3), torch.randint(-1, 2, (2, 5, 3)), torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(
        masked_loss(logits, labels, weights), masked_loss(logits.flatten(0, 1), labels.flatten(0, 1), weights)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    logits, labels = torch.full((600, 400), 5.0, dtype=dtype), torch.zeros((600, 400), dtype=torch.int8)
    loss = masked_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(5.0067), rtol=1e-3, atol=0)


def test_many_models_can_be_scored_in_one_vectorised_call():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 3), torch.randint(-1, 2, (5, 3))
    each = torch.stack([masked_loss(one, labels) for one in logits])
    torch.testing.assert_close(torch.vmap(masked_loss, in_dims=(0, None))(logits, labels), each)
