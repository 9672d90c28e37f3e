"""The checks of an audit on small arrays, the registry, and the example of the guide."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import ROOT

from mmfeat.audit.caption_texts import MANY, find_empty_captions, find_repeated_captions
from mmfeat.audit.checks import CHECKS, AuditInput, Embeddings, Predictions, all_checks, register_check
from mmfeat.audit.contradictions import agreement, find_contradictions
from mmfeat.audit.findings import CheckResult
from mmfeat.audit.label_errors import find_label_errors
from mmfeat.audit.odd_pictures import SIDE, find_odd_pictures
from mmfeat.audit.outliers import find_outliers
from mmfeat.audit.unreadable_samples import find_unreadable
from mmfeat.store.thumbnail_store import PictureStatistics

N, K = 60, 4
CLASSES = ("dog", "cat", "<b>", "x" * 100)


def small(**more) -> AuditInput:
    """Rows with labels that a model knows well, but for row 0, whose `dog` is wrong."""
    rng = np.random.default_rng(0)
    truth = (rng.random((N, K)) < 0.4).astype(np.int8)
    truth[0] = [0, 1, 0, 0]
    labels = truth.copy()
    labels[0, 0], labels[-5:] = 1, -1
    logits = (14.0 * truth - 7 + rng.normal(0, 0.5, truth.shape)).astype(np.float32)
    known = labels.max(1) >= 0
    fused = Predictions(name="crossattn-1", logits=logits, known=known, predicted=truth)
    alone = {
        name: Predictions(name=name, logits=logits.copy(), known=np.ones(N, bool), modality=name)
        for name in ("image", "text")
    }
    split = np.where(known, "train", "unlabelled").astype(object)
    given = {"ids": np.array([f"{i}.jpg" for i in range(N)], object), "labels": labels, "split": split}
    given |= {"classes": CLASSES, "out_of_fold": fused, "unimodal": alone}
    return AuditInput(**(given | more))


def test_a_wrong_label_is_found_with_what_is_proposed_and_why():
    result = find_label_errors(small())
    first = result.findings[0]
    assert (first.id, first.class_name, first.given, first.proposed) == ("0.jpg", "dog", ("dog", "cat"), ("cat",))
    assert re.fullmatch(r"dog is given; crossattn-1 says 0\.00, image 0\.00, text 0\.00", first.detail)
    assert np.nanargmin(result.scores) == 0
    assert np.isnan(result.scores[-5:]).all()
    assert {row["class"] for row in result.table} == set(CLASSES)
    assert sum(row["listed"] for row in result.table) == len(result.findings)


def test_without_predictions_label_errors_and_contradictions_are_skipped():
    assert find_label_errors(small(out_of_fold=None)).skipped
    assert find_contradictions(small(unimodal={})).skipped
    image = {"image": small().unimodal["image"]}
    assert find_contradictions(small(unimodal=image)).skipped


def test_a_modality_that_a_row_lacks_does_not_change_the_judgement_of_the_others():
    given = small()
    text = given.unimodal["text"]
    known = np.ones(N, bool)
    known[0] = False
    noise = np.where(known[:, None], text.logits, 50).astype(np.float32)
    without = Predictions(name="text", logits=noise, known=known, modality="text")
    found = find_label_errors(small(unimodal={**given.unimodal, "text": without}))
    assert found.findings[0].id == "0.jpg"
    assert "text" not in found.findings[0].detail


def test_agreement_is_even_where_one_side_says_nothing():
    shares = np.array([0.2, 0.5])
    surely = np.array([[3.0, -3.0]])
    assert agreement(surely, np.log(shares / (1 - shares))[None], shares)[0] == pytest.approx(0)
    assert agreement(surely, surely, shares)[0] > 0 > agreement(surely, -surely, shares)[0]


def test_an_exchanged_caption_contradicts_its_image():
    given = small()
    swapped = given.unimodal["text"].logits.copy()
    truth = given.out_of_fold.predicted
    other = next(i for i in range(1, N) if (truth[i] != truth[3]).sum() >= 3)
    swapped[3] = given.unimodal["text"].logits[other]
    text = Predictions(name="text", logits=swapped, known=np.ones(N, bool), modality="text")
    found = find_contradictions(small(unimodal={**given.unimodal, "text": text}))
    assert [finding.id for finding in found.findings] == ["3.jpg"]
    assert " by image, " in found.findings[0].detail
    assert not find_contradictions(given).findings


def test_empty_captions_are_listed_where_most_rows_have_one():
    has = np.ones(N, bool)
    has[[2, 5]] = False
    found = find_empty_captions(small(has={"text": has}))
    assert [one.id for one in found.findings] == ["2.jpg", "5.jpg"]
    assert find_empty_captions(small(has={"text": ~has})).findings == ()
    assert "they are not listed" in find_empty_captions(small(has={"text": ~has})).lines[0]
    assert find_empty_captions(small()).skipped


def test_a_caption_of_many_rows_is_listed_and_one_of_few_is_not():
    keys = np.zeros((N, 32), np.uint8)
    keys[:, 0] = np.arange(N)
    keys[:MANY, 0], keys[20:23, 0] = 200, 201
    found = find_repeated_captions(small(has={"text": np.ones(N, bool)}, keys={"text": keys}))
    assert {one.id for one in found.findings} == {f"{i}.jpg" for i in range(MANY)}
    assert found.findings[0].score == pytest.approx(1 / MANY)
    assert found.findings[0].id not in found.findings[0].related
    assert found.scores[20] == pytest.approx(1 / 3)


def test_odd_pictures_have_one_colour_are_tiny_or_long():
    width, height = np.full(N, 640, np.int32), np.full(N, 480, np.int32)
    spread = np.full(N, 60, np.float32)
    spread[1], height[2], width[3] = 0, 100, SIDE - 1
    none = PictureStatistics.none(N)
    known = np.ones(N, bool)
    known[4] = False
    pictures = PictureStatistics(
        known=known, width=width, height=height, n_bytes=none.n_bytes, spread=spread, miniature=none.miniature
    )
    found = find_odd_pictures(small(pictures=pictures))
    assert {one.id for one in found.findings} == {"1.jpg", "2.jpg", "3.jpg"}
    assert found.findings[0].detail == "one colour, 640 x 480 pixels"
    assert np.isnan(found.scores[4])
    assert find_odd_pictures(small()).skipped
    assert find_odd_pictures(small(pictures=none)).skipped


def test_unreadable_images_have_their_reason_on_one_line():
    found = find_unreadable(
        small(has={"image": np.ones(N, bool)}, unreadable={3: "truncated\x1b[31m\n", 1: "no such file"})
    )
    assert [(one.id, one.detail) for one in found.findings] == [
        ("1.jpg", "no such file"),
        ("3.jpg", "truncated\\x1b[31m\\n"),
    ]
    assert find_unreadable(small()).skipped


def test_every_check_is_skipped_or_finds_nothing_without_any_input():
    bare = AuditInput(
        ids=np.array(["a", "b"], object),
        labels=np.full((2, 1), -1, np.int8),
        split=np.array(["unlabelled"] * 2, object),
        classes=("dog",),
    )
    for check in all_checks():
        result = check.run(bare)
        assert result.skipped, check.name
        assert not result.findings


def test_scores_and_findings_of_every_check_are_in_their_range():
    given = small(
        embeddings={},
        has={"image": np.ones(N, bool), "text": np.ones(N, bool)},
        keys={"text": np.zeros((N, 32), np.uint8)},
    )
    for check in all_checks():
        result = check.run(given)
        assert all(0 <= finding.score <= 1 and finding.check == check.name for finding in result.findings), check.name
        if result.scores is not None:
            assert result.scores.shape == (N,)
            assert np.nanmin(result.scores) >= 0
            assert np.nanmax(result.scores) <= 1


def test_embeddings_are_read_as_unit_vectors_and_missing_ones_as_zeros():
    values = np.array([[3, 4], [0, 0]], np.float16)
    found = Embeddings(modality="image", values=values, present=np.array([True, False])).rows(np.arange(2))
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(CHECKS, "_known", dict(CHECKS.known))


def test_the_check_of_the_guide_is_found_and_works(registry):
    text = (ROOT / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "register_check" in block)
    exec(compile(code, "extend.md", "exec"), {})
    check = {check.name: check for check in all_checks()}["long_caption"]
    lengths = np.full(N, 40)
    lengths[7] = 900
    found = check.run(small(caption_lengths=lengths, has={"text": np.ones(N, bool)}))
    assert [one.id for one in found.findings] == ["7.jpg"]


def test_two_checks_of_one_name_are_refused(registry):
    list(all_checks())
    with pytest.raises(ValueError, match="audit check 'label' is already registered"):
        register_check("label", "labels")(lambda given: CheckResult())


def test_a_row_far_from_all_others_is_an_outlier():
    rng = np.random.default_rng(0)
    values = np.ones((N, 8)) + rng.uniform(-0.1, 0.1, (N, 8))
    values[4] = [1, -1, 1, -1, 1, -1, 1, -1]
    image = Embeddings(modality="image", values=values.astype(np.float16), present=np.arange(N) != 9)
    found = find_outliers(small(embeddings={"image": image}))
    assert [one.id for one in found.findings] == ["4.jpg"]
    assert re.fullmatch(r"distance \d\.\d\d by encoder image, usually 0\.00", found.findings[0].detail)
    assert np.nanargmin(found.scores) == 4
    assert np.isnan(found.scores[9])
    few = Embeddings(modality="image", values=values, present=np.arange(N) < 20)
    assert find_outliers(small(embeddings={"image": few})).skipped
    same = Embeddings(modality="image", values=np.ones((N, 8)), present=np.ones(N, bool))
    assert not find_outliers(small(embeddings={"image": same})).findings
