"""Which rows a report shows: errors by their sureness, doubtful rows without duplicates, and pictures within a size."""

from __future__ import annotations

import numpy as np

from mmfeat.inference import page_pictures as module
from mmfeat.inference.gallery_rows import CLASSES, ERRORS, most_disagreeing, most_uncertain, surest_errors
from mmfeat.inference.page_pictures import page_pictures

NAMES = ("cat", "dog")


def test_errors_are_the_surest_first_and_unknown_labels_are_none():
    labels = np.array([[1, 0], [1, 0], [0, -1], [1, 1]], np.int8)
    probs = np.array([[0.3, 0.1], [0.05, 0.2], [0.9, 0.99], [0.8, 0.45]])
    found = surest_errors(labels, probs, (probs > 0.5).astype(np.int8), NAMES)
    assert [(one.name, one.n_missed, one.n_wrong) for one in found] == [("cat", 2, 1), ("dog", 1, 0)]
    assert [pick.at for pick in found[0].picks] == [1, 2, 0]
    assert found[0].picks[0].reason == "cat is given, the model says 0.05"
    assert found[0].picks[1].reason == "cat is not given, the model says 0.90"


def test_thousands_of_classes_have_a_bounded_number_of_cards():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 3000)) < 0.01).astype(np.int8)
    probs = rng.random(labels.shape).astype(np.float32)
    found = surest_errors(labels, probs, (probs > 0.5).astype(np.int8), [str(k) for k in range(3000)])
    assert len(found) == CLASSES
    assert sum(len(one.picks) for one in found) <= ERRORS


def test_no_error_at_all():
    labels = np.eye(2, dtype=np.int8)
    assert surest_errors(labels, labels * 0.9, labels, NAMES) == []


def test_uncertain_rows_are_near_their_thresholds_and_no_duplicates():
    probs = np.array([[0.99, 0.01], [0.52, 0.02], [0.52, 0.02], [0.2, 0.31], [0.9, 0.9]])
    picks = most_uncertain(probs, np.array([0.5, 0.3]), NAMES, numbers=np.arange(5), n=5)
    assert picks[0].reason == "dog: 0.31, threshold 0.30"
    assert sorted(pick.at for pick in picks) in ([0, 1, 3, 4], [0, 2, 3, 4])


def test_encoders_disagree_where_both_are_known():
    image = np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
    text = np.array([[0.1, 0.1], [0.1, 0.1], [0.5, 0.5]])
    known = {"image": np.ones(3, bool), "text": np.array([True, False, True])}
    picks = most_disagreeing({"image": image, "text": text}, known, NAMES, numbers=np.arange(3), n=3)
    assert [(pick.at, pick.reason) for pick in picks] == [(0, "cat: image says 0.90, text says 0.10")]


def test_pictures_stay_within_the_size_of_a_file(project, monkeypatch):
    rows = project.manifest.rows("all")[:10].tolist()
    whole = page_pictures(project, rows)
    assert len(whole.jpegs) == 10
    assert whole.note == ""
    sizes = {row: len(jpeg) for row, jpeg in whole.jpegs.items()}
    monkeypatch.setattr(module, "MOST_BYTES", 2 * sizes[rows[0]] + sizes[rows[1]])
    some = page_pictures(project, [rows[0], *rows])  # a row that is shown twice counts twice
    assert sum(sizes[row] for row in some.jpegs) + sizes[rows[0]] <= module.MOST_BYTES
    assert rows[0] in some.jpegs
    assert "left out: the file would be too large" in some.note
    assert page_pictures(project, rows, images=False).jpegs == {}
