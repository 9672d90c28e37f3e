"""Near-duplicates on arrays: what is found whatever was done to a picture, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.images import textured
from PIL import Image, ImageOps

from mmfeat.audit.checks import AuditInput, Embeddings, Predictions
from mmfeat.audit.copy_search import caption_copies, picture_copies
from mmfeat.audit.leakage import find_leakage, leaked_rows
from mmfeat.audit.miniatures import SYMMETRIES, coarse_match, grey, turn_invariant, turned, window_views
from mmfeat.audit.near_duplicates import contradicting, find_near_captions, find_near_duplicates, majority
from mmfeat.audit.registration import pixel_similarity
from mmfeat.data.caption_digests import caption_keys, caption_words, normal_caption
from mmfeat.store.thumbnail_store import PictureStatistics

N = 40


def cropped(image: Image.Image, left: float, top: float, share: float = 0.9) -> Image.Image:
    width, height = image.size
    box = left * width, top * height, (left + share) * width, (top + share) * height
    return image.crop(tuple(map(round, box)))


ALTERED = {
    "resized": lambda image: image.resize((100, 80)),
    "mirrored": ImageOps.mirror,
    "turned left": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned right": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "middle": lambda image: cropped(image, 0.05, 0.05),
    "corner": lambda image: cropped(image, 0.0, 0.1),
    "other corner, mirrored": lambda image: ImageOps.mirror(cropped(image, 0.1, 0.0)),
    "four fifths": lambda image: cropped(image, 0.1, 0.1, 0.8),
    "darker": lambda image: image.point(lambda value: value * 0.7),
}


def miniature(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX))


ORIGINALS = np.stack([miniature(textured(seed)) for seed in range(N)])


@pytest.mark.parametrize("kind", ALTERED)
def test_an_altered_copy_is_similar_and_another_picture_is_not(kind):
    copies = np.stack([miniature(ALTERED[kind](textured(seed))) for seed in range(N)])
    both, rows = np.concatenate([ORIGINALS, copies]), np.arange(N)
    assert pixel_similarity(both, rows, N + rows).min() > 0.8
    assert pixel_similarity(both, N + rows, rows).min() > 0.8
    assert pixel_similarity(both, rows, N + (rows + 1) % N).max() < 0.5


def test_a_descriptor_does_not_change_by_turns_and_mirrors():
    expected = turn_invariant(ORIGINALS)
    for symmetry in SYMMETRIES:
        pictures = np.stack([turned(one.transpose(2, 0, 1), symmetry).transpose(1, 2, 0) for one in ORIGINALS])
        assert np.allclose(turn_invariant(pictures), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("number", range(8))
def test_the_coarse_match_finds_the_symmetry(number):
    greys = grey(ORIGINALS)
    match, symmetry, position = coarse_match(window_views(turned(greys, SYMMETRIES[number])), window_views(greys))
    assert (symmetry == number).all()
    assert match.min() > 0.999
    assert not position.any()


def test_flat_pictures_are_copies_of_nothing():
    flat = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 128, 255)])
    noisy = flat + np.random.default_rng(0).integers(0, 2, flat.shape, dtype=np.uint8)
    first, second = np.triu_indices(3, 1)
    assert not pixel_similarity(flat, first, second).any()
    assert not pixel_similarity(noisy, first, second).any()


# checks


def statistics(miniatures: np.ndarray) -> PictureStatistics:
    found = PictureStatistics.none(len(miniatures))
    found.known[:] = True
    found.miniature[:] = miniatures
    return found


def given_of(miniatures: np.ndarray, **more) -> AuditInput:
    """Rows of which the first half is train, the other val; without embeddings."""
    n = len(miniatures)
    keys = np.random.default_rng(1).integers(1, 256, (n, 32), dtype=np.uint8)
    given = {
        "ids": np.array([f"{i}.jpg" for i in range(n)], object),
        "labels": np.tile(np.array([[1, 0, 0]], np.int8), (n, 1)),
        "split": np.repeat(np.array(["train", "val"], object), n // 2),
        "classes": ("dog", "cat", "<b>"),
        "keys": {"image": keys},
        "has": {"image": np.ones(n, bool)},
        "pictures": statistics(miniatures),
    }
    return AuditInput(**(given | more))


def planted() -> np.ndarray:
    """In the second half, copies of the first ten rows, each altered in another way; the rest are other pictures."""
    copies = [miniature(alter(textured(seed))) for seed, alter in enumerate(ALTERED.values())]
    return np.concatenate([ORIGINALS[:20], copies, ORIGINALS[20:30]])


def test_copies_are_found_without_embeddings():
    found = picture_copies(given_of(planted()))
    whole = [row for row, kind in enumerate(ALTERED) if kind not in ("four fifths",)]  # a small crop needs an encoder
    assert set(map(tuple, found.clusters())) >= {(row, 20 + row) for row in whole}
    assert len(found.clusters()) <= 10
    assert (found.nearest[whole] == 20 + np.array(whole)).all()


def test_an_encoder_finds_small_crops():
    values = np.random.default_rng(2).normal(size=(40, 8)).astype(np.float32)
    values[20:30] = values[:10]
    image = {"image": Embeddings(modality="image", values=values, present=np.ones(40, bool))}
    found = picture_copies(given_of(planted(), embeddings=image))
    assert [tuple(one) for one in found.clusters()] == [(row, 20 + row) for row in range(10)]
    assert found.recall == 1


def test_without_pixels_the_cosine_decides():
    values = np.random.default_rng(2).normal(size=(40, 64)).astype(np.float32)
    values[25] = values[3] * 2
    image = {"image": Embeddings(modality="image", values=values, present=np.ones(40, bool))}
    found = picture_copies(given_of(planted(), embeddings=image, pictures=None))
    assert [tuple(one) for one in found.clusters()] == [(3, 25)]


def test_pictures_that_are_gone_are_compared_by_their_embeddings():
    values = np.random.default_rng(2).normal(size=(40, 64)).astype(np.float32)
    values[25], values[35] = values[3], values[15]
    pictures = statistics(planted())
    pictures.known[25] = False
    image = {"image": Embeddings(modality="image", values=values, present=np.ones(40, bool))}
    clusters = [
        tuple(one) for one in picture_copies(given_of(planted(), embeddings=image, pictures=pictures)).clusters()
    ]
    assert (3, 23, 25) in clusters
    assert (15, 35) not in clusters  # their pixels are known, and differ


def test_near_duplicates_come_with_their_copies_and_contradictions_first():
    given = given_of(planted())
    given.labels[20] = [0, 1, 0]
    given.labels[21] = -1
    result = find_near_duplicates(given)
    first = result.findings[0]
    assert {first.id, *first.related} == {"0.jpg", "20.jpg"}
    assert "labels differ: dog, cat" in first.detail
    assert first.proposed is None  # one against one
    assert {one.id for one in result.findings if "differ" in one.detail} == {"0.jpg", "20.jpg"}
    assert result.scores.shape == (40,)
    assert result.scores[39] == 1
    assert "in 1" in result.lines[0]


def test_most_copies_propose_the_labels():
    same = np.stack([miniature(textured(0)), *(miniature(alter(textured(0))) for alter in list(ALTERED.values())[:3])])
    given = given_of(same)
    given.labels[2] = [0, 1, -1]
    result = find_near_duplicates(given)
    assert {one.id: one.proposed for one in result.findings} == {
        "0.jpg": None,
        "1.jpg": None,
        "2.jpg": ("dog",),
        "3.jpg": None,
    }


def test_identical_files_are_copies_without_any_embedding():
    given = given_of(ORIGINALS, pictures=None)
    given.keys["image"][7] = given.keys["image"][3]
    given.keys["image"][9] = given.keys["image"][3]
    found = picture_copies(given)
    assert [tuple(one) for one in found.clusters()] == [(3, 7, 9)]
    assert find_near_duplicates(given).findings[0].detail.startswith("the same as")


def test_no_images_are_skipped():
    assert find_near_duplicates(given_of(ORIGINALS, has={}, keys={})).skipped
    assert find_near_captions(given_of(ORIGINALS)).skipped
    assert find_leakage(given_of(ORIGINALS, has={}, keys={})).skipped


def test_labels_that_contradict_each_other():
    labels = np.array([[1, 0, -1, 1], [0, 0, 1, 1], [1, -1, -1, 0]], np.int8)
    assert contradicting(labels).tolist() == [0, 3]
    assert majority(labels).tolist() == [1, 0, 1, 1]
    assert majority(labels[:2]).tolist() == [-1, 0, 1, 1]


# leakage


def test_leaked_rows_are_those_with_a_copy_in_an_earlier_split():
    cluster = np.array([0, 0, 1, 1, 2, 2, 3, 3, -1, -1])
    split = np.array(["train", "val", "val", "test", "test", "train", "val", "unlabelled", "test", "val"], object)
    assert np.flatnonzero(leaked_rows(cluster, split)).tolist() == [1, 3, 4]


def model_for(given: AuditInput, wrong: list[int]) -> Predictions:
    """A model that is right on all val rows but some."""
    predicted = given.labels.copy()
    predicted[wrong] = [0, 1, 0]
    logits = np.where(predicted == 1, 4.0, -4.0).astype(np.float32)
    return Predictions(name="concat-1", logits=logits, known=given.split == "val", predicted=predicted)


def test_metrics_without_leaked_rows_are_shown_with_an_interval():
    given = given_of(planted())
    given.labels[::2] = [0, 0, 1]
    given = given_of(planted(), labels=given.labels, model=model_for(given, list(range(32, 40))))
    result = find_leakage(given)
    assert {one.id for one in result.findings} <= {f"{row}.jpg" for row in range(20, 30)}
    assert len(result.findings) >= 9
    (f1,) = [one for one in result.table if one["metric"] == "samples_f1"]
    kept = 20 - len(result.findings)
    assert f1["difference"] == pytest.approx((kept - 8) / kept - 12 / 20)
    assert f1["low"] < f1["difference"] < f1["high"] < 0
    assert "of 20 val rows have a near-duplicate image in train" in result.lines[0]
    assert any("samples F1 -0." in line for line in result.lines)


def test_if_every_val_row_has_a_copy_nothing_is_left_to_measure():
    given = given_of(np.concatenate([ORIGINALS[:10], ORIGINALS[:10]]))
    given = given_of(np.concatenate([ORIGINALS[:10], ORIGINALS[:10]]), model=model_for(given, [12]))
    result = find_leakage(given)
    assert len(result.findings) == 10
    assert not result.table
    assert "no val row is left" in result.lines[-1]


# captions


CAPTIONS = [
    "Two dogs on a bench.",
    "two dogs on a bench",
    "Three small cats sit together on a chair",
    "A red kite over the sea",
    "Three small cats sit together on the chair",
    "",
]


def test_captions_without_case_and_punctuation():
    assert normal_caption("  Two Dogs, on a\tbench! ") == "two dogs on a bench"
    assert normal_caption("…") == ""
    keys = caption_keys(CAPTIONS)
    assert (keys[0] == keys[1]).all()
    assert not keys[5].any()
    assert len(np.unique(keys, axis=0)) == 5


def test_the_share_of_equal_values_estimates_the_share_of_words():
    words = caption_words(CAPTIONS)
    assert (words[0] == words[1]).all()
    assert (words[2] == words[4]).mean() == pytest.approx(7 / 9, abs=0.2)
    assert (words[2] == words[3]).mean() < 0.2


def given_captions(**more) -> AuditInput:
    n = len(CAPTIONS)
    return given_of(
        ORIGINALS[:n],
        keys={},
        has={"text": np.array([bool(one) for one in CAPTIONS])},
        pictures=None,
        embeddings={"text": Embeddings(modality="text", values=np.eye(n, 4) + 1, present=np.ones(n, bool))},
        caption_keys=caption_keys(CAPTIONS),
        caption_words=caption_words(CAPTIONS),
        **more,
    )


def test_equal_and_similar_captions_are_found():
    given = given_captions()
    assert [tuple(one) for one in caption_copies(given).clusters()] == [(0, 1), (2, 4)]
    result = find_near_captions(given)
    assert not result.findings  # equal labels
    given.labels[1] = [0, 1, 0]
    assert {one.id for one in find_near_captions(given_captions(labels=given.labels)).findings} == {"0.jpg", "1.jpg"}


def test_labels_of_similar_captions_are_not_proposed():
    labels = np.zeros((3, 3), np.int8)
    labels[2, 1] = 1
    alike = {"caption_keys": caption_keys(CAPTIONS[:1] * 3), "caption_words": caption_words(CAPTIONS[:1] * 3)}
    given = given_of(
        ORIGINALS[:3], keys={}, has={"text": np.ones(3, bool)}, pictures=None, embeddings={}, labels=labels, **alike
    )
    assert [one.proposed for one in find_near_captions(given).findings] == [None] * 3


def test_captions_leak_where_there_are_no_images():
    split = np.array(["train", "val", "val", "val", "train", "val"], object)
    result = find_leakage(given_captions(split=split))
    assert {one.id for one in result.findings} == {"1.jpg", "2.jpg"}
    assert "near-duplicate caption in train" in result.lines[0]
