"""From logits to probabilities to labels to names, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import expit

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import class_positions, decide, encode, label_names, rows_of, sigmoid

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")

shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)
tables = arrays(np.float32, shapes, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]))
known = arrays(np.int8, shapes, elements=st.integers(0, 1))
partly_known = arrays(np.int8, shapes, elements=st.integers(-1, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_the_logistic_function_without_overflow(dtype):
    info = np.finfo(dtype)
    logits = np.array([info.min, -1e4, -100, -20, -1, -info.tiny, 0, info.tiny, 1, 20, 100, 1e4, info.max], dtype=dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        probs = sigmoid(logits)
    assert probs.dtype == dtype
    np.testing.assert_allclose(
        probs, expit(logits.astype(np.float64)), rtol=1e-5 if dtype == np.float32 else 1e-12, atol=info.tiny
    )
    assert (np.diff(probs) >= 0).all()


def test_sigmoid_takes_whole_numbers_and_passes_nan_on():
    np.testing.assert_allclose(sigmoid(np.array([-1, 0, 1])), expit([-1.0, 0.0, 1.0]))
    assert np.isnan(sigmoid(np.float32([np.nan, 0]))).tolist() == [True, False]


def test_the_most_probable_class_is_found_however_improbable_it_is():
    logits = np.random.default_rng(0).permuted(np.linspace(-90, -15, 40, dtype=np.float32)[None].repeat(50, 0), axis=1)
    decided = decide(sigmoid(logits))
    assert (decided.argmax(1) == logits.argmax(1)).all()
    assert (decided.sum(1) == 1).all()


@given(tables, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_what_passes_is_decided_and_only_an_empty_row_gets_its_most_probable(probs, threshold):
    passed = (probs > np.float32(threshold)).astype(np.int8)
    none, most = decide(probs, threshold, "none"), decide(probs, threshold)
    assert most.dtype == none.dtype == np.int8
    assert (none == passed).all()
    filled = passed.any(1)
    assert (most[filled] == passed[filled]).all()
    assert (most[~filled].sum(1) == 1).all()
    assert (most[~filled].argmax(1) == probs[~filled].argmax(1)).all()


@given(tables, st.randoms(use_true_random=False))
def test_a_row_is_decided_by_itself_alone(probs, random):
    order = list(range(len(probs)))
    random.shuffle(order)
    assert (decide(probs)[order] == decide(probs[order])).all()


@given(tables, st.sampled_from([0.1, 0.25, 0.7]))
def test_one_threshold_and_the_same_for_each_class_decide_alike(probs, threshold):
    each = np.full(probs.shape[1], threshold)
    for empty in ("most-probable", "none"):
        alike = [decide(probs, t, empty) for t in (threshold, np.float64(threshold), each, each.astype(np.float32))]
        assert all((d == alike[0]).all() for d in alike)


def test_each_class_has_its_own_threshold():
    assert decide(np.float32([[0.4, 0.4]]), np.array([0.3, 0.5])).tolist() == [[1, 0]]


def test_no_rows_and_no_classes_are_no_error():
    assert decide(np.zeros((0, 3))).shape == (0, 3)
    assert decide(np.zeros((2, 0))).shape == (2, 0)
    assert label_names(np.zeros((0, 2), np.int8), ["a", "b"]) == []
    assert encode([], ["a", "b"]).shape == (0, 2)


def test_a_rule_for_empty_rows_that_does_not_exist_is_refused():
    with pytest.raises(MmfeatError, match=r"'most_probable'.*most-probable, none"):
        decide(np.zeros((1, 1)), 0.5, "most_probable")


@given(known)
def test_names_and_back_is_the_identity(labels):
    classes = [f"class {k}" for k in range(labels.shape[1])][::-1]
    names = label_names(labels, classes)
    assert [len(row) for row in names] == labels.sum(1).tolist()
    assert all(row == sorted(row, reverse=True) for row in names)  # the order of the classes
    again = encode(names, classes)
    assert again.dtype == np.int8
    assert (again == labels).all()
    assert (encode([row[::-1] for row in names], classes) == labels).all()


@given(partly_known)
def test_what_is_not_known_has_no_name(labels):
    classes = [str(k) for k in range(labels.shape[1])]
    assert label_names(labels, classes) == label_names((labels == 1).astype(np.int8), classes)


def test_an_unlabelled_row_is_unknown_throughout_and_an_empty_one_is_not():
    assert encode([None, [], ["b"]], ["a", "b"]).tolist() == [[-1, -1], [0, 0], [0, 1]]
    with pytest.raises(KeyError):
        encode([["c"]], ["a", "b"])


@given(partly_known, st.data())
def test_splits_and_unlabelled_rows_are_all_rows_once(labels, data):
    names = st.sampled_from(["train", "val", "test"])
    split = np.array(data.draw(st.lists(names, min_size=len(labels), max_size=len(labels))), dtype=object)
    parts = {which: rows_of(labels, split, which) for which in ("train", "val", "test", "unlabelled")}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == rows_of(labels, split, "all").tolist()
    assert (labels[parts["unlabelled"]] == -1).all()
    for which in ("train", "val", "test"):
        assert (split[parts[which]] == which).all()
        assert (labels[parts[which]] >= 0).any(1).all()


@given(st.lists(st.text(max_size=3), unique=True, max_size=6), st.data())
def test_classes_are_found_by_name_and_others_are_not(classes, data):
    other = data.draw(st.permutations(classes))
    at = class_positions(classes, other)
    assert [classes[k] for k in at] == other
    assert class_positions(classes, [*other, "another"]) is None
    if classes:
        assert class_positions(classes, other[1:]) is None
        assert class_positions(classes, ["another", *other[1:]]) is None
        assert class_positions(classes, [other[0], *other]) is None
