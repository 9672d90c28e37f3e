"""The predictor: any form of input, missing modalities, threads; the folder: whole and unchanged."""

from __future__ import annotations

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmfeat import Predictor
from mmfeat.common.errors import DataError, RunError
from mmfeat.common.labels import sigmoid
from mmfeat.inference.logits import logits_of
from mmfeat.project.project import Project


@pytest.fixture(scope="module")
def samples(trained) -> tuple[list[bytes], list[str]]:
    """Images and captions of the project's rows, in their order."""
    project = Project(trained)
    read = project.reader("image")
    return [read(row) for row in range(project.manifest.n_samples)], project.manifest.captions.tolist()


def test_it_equals_the_cached_path_to_rounding(predictor, samples, trained):
    project = Project(trained)
    rows = np.arange(project.manifest.n_samples)
    cached = logits_of(project, "fm3-1", rows)
    found = predictor.predict(*samples)
    assert np.abs(found.probs - sigmoid(cached.logits)).max() < 1e-4
    assert np.array_equal(found.known, cached.known)
    for name in ("image", "text"):
        own = logits_of(project, name, rows)
        assert np.abs(found.unimodal[name] - sigmoid(own.logits))[own.known].max() < 1e-4
        assert np.isnan(found.unimodal[name][~own.known]).all()


def test_every_form_of_an_image_is_the_same_image(predictor, samples, tmp_path):
    data = samples[0][0]
    path = tmp_path / "one.png"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    forms = [path, str(path), data, image, np.asarray(image.convert("RGB"))]
    probs = [predictor.predict(form).probabilities for form in forms]
    assert all(one == probs[0] for one in probs)


def test_one_item_gives_one_prediction_and_a_list_gives_as_many(predictor, samples):
    images, captions = samples
    one = predictor.predict(images[0], captions[0])
    many = predictor.predict(images[:3], captions[:3])
    assert len(many) == 3
    assert len(predictor.predict([images[0]], [captions[0]])) == 1
    assert one.labels == many[0].labels
    assert list(one.probabilities) == list(predictor.classes)
    assert one.probabilities == pytest.approx(many[0].probabilities, abs=1e-5)
    assert [label for label, _ in one.top(2)] == sorted(one.probabilities, key=one.probabilities.get)[::-1][:2]
    assert [p.labels for p in many] == many.labels
    assert many[-1].labels == many[2].labels
    assert len(many[1:]) == 2


def test_an_array_of_images_or_of_paths_is_a_list(predictor, samples, tmp_path):
    assert len(predictor.predict(np.zeros((2, 8, 8, 3), np.uint8))) == 2
    (tmp_path / "a.jpg").write_bytes(samples[0][0])
    paths = np.array([str(tmp_path / "a.jpg")] * 2)
    assert len(predictor.predict(paths)) == len(predictor.predict(paths.astype(object))) == 2


def test_the_company_of_an_item_does_not_matter(predictor, samples):
    images, captions = samples
    whole = predictor.predict(images[:20], captions[:20], batch_size=7)
    alone = [predictor.predict(image, caption) for image, caption in zip(images[:20], captions[:20], strict=True)]
    for a, b in zip(whole, alone, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_what_is_missing_is_none_or_blank(predictor, samples):
    images, captions = samples
    found = predictor.predict([images[0], None, None], [None, captions[1], "  "])
    assert list(found[0].unimodal) == ["image"]
    assert list(found[1].unimodal) == ["text"]
    assert found[2].unimodal == {}
    assert found.known.tolist() == [True, True, False]
    assert found.labels[2]  # the commonest answer


def test_nothing_at_all_is_no_item(predictor):
    assert len(predictor.predict([], [])) == 0
    assert predictor.predict().unimodal == {}


def test_threads_get_their_own_answers(predictor, samples):
    images, captions = samples
    wanted = predictor.predict(images[:16], captions[:16])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: predictor.predict(images[i % 16], captions[i % 16]), range(64)))
    for i, one in enumerate(found):
        assert one.probabilities == pytest.approx(wanted[i % 16].probabilities, abs=1e-5)


def test_an_image_that_cannot_be_read_is_named_or_recorded(predictor, samples, tmp_path):
    images, captions = samples
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image 1 \(.*broken.jpg\): UnidentifiedImageError"):
        predictor.predict([images[0], broken], captions[:2])
    with pytest.raises(DataError, match="No such file"):
        predictor.predict(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="not a plain file"):
        predictor.predict(tmp_path)
    found = predictor.predict([images[0], broken], captions[:2], on_error="record")
    assert list(found.errors) == [1]
    assert found[1].error.startswith("UnidentifiedImageError")
    assert list(found[1].unimodal) == ["text"]
    assert found[0].probabilities == pytest.approx(predictor.predict(images[0], captions[0]).probabilities, abs=1e-5)


def test_a_threshold_is_stronger_than_the_models(predictor, samples):
    images, captions = samples
    assert predictor.predict(images[0], captions[0], threshold=0.0).labels == list(predictor.classes)


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        ([b"a"], ["a", "b"], "1 image and 2 captions"),
        ("a.jpg", ["a", "b"], "1 image and 2 captions"),
        ([b"a", 3], None, "image 1 is a int"),
        (None, ["a", 3], "caption 1 is a int"),
        (None, 5, "captions are a int"),
        (5, None, "images are a int"),
        (np.zeros((8, 8, 2), np.uint8), None, r"an array \(8, 8, 2\)"),
        (np.zeros((8, 8, 3), np.float32), None, "of float32"),
    ],
)
def test_what_is_no_item_is_said(predictor, images, captions, message):
    with pytest.raises(DataError, match=message):
        predictor.predict(images, captions)


def test_a_model_of_one_modality_says_what_it_does_not_read(trained, tmp_path, samples):
    from mmfeat.workflows.export import export

    folder = export(Project(trained), "text", tmp_path / "text").folder
    model = Predictor.load(folder)
    assert model.predict(None, samples[1][0]).labels
    with pytest.raises(DataError, match="reads no images"):
        model.predict(samples[0][0])


def test_a_folder_needs_nothing_around_it(exported, samples, tmp_path, predictor):
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    text = "".join(f.read_text(errors="replace") for f in moved.rglob("*.json"))
    assert str(exported.parent) not in text
    found = Predictor.load(moved).predict(samples[0][0], samples[1][0])
    assert found == predictor.predict(samples[0][0], samples[1][0])


@pytest.mark.parametrize(
    "name", ["heads.safetensors", "encoders/image/weights.safetensors", "encoders/text/tokenizer.json"]
)
def test_a_folder_that_is_incomplete_or_changed_is_refused(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "model")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunError, match=f"{name} has changed"):
        Predictor.load(folder)
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"incomplete: {name} is missing"):
        Predictor.load(folder)


def test_the_model_card_may_be_edited(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    (folder / "README.md").write_text("my own", encoding="utf-8")
    Predictor.load(folder)


def test_a_record_that_is_damaged_newer_or_absent_is_refused(exported, tmp_path):
    from mmfeat.common.seals import read_sealed, write_sealed

    folder = shutil.copytree(exported, tmp_path / "model")
    record = folder / "mmfeat.json"
    values, text = read_sealed(record), record.read_text(encoding="utf-8")
    record.write_text(text.replace('"threshold": 0.5', '"threshold": 0.4'), encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        Predictor.load(folder)
    write_sealed(record, {**values, "format": 99})
    with pytest.raises(RunError, match="has format 99"):
        Predictor.load(folder)
    write_sealed(record, {**values, "runtime": "steam"})
    with pytest.raises(RunError, match="steam"):
        Predictor.load(folder)
    write_sealed(record, {**values, "model": {"n_classes": 3, "parts": {}, "tree": "gone"}})
    with pytest.raises(RunError, match="cannot be built"):
        Predictor.load(folder)
    with pytest.raises(RunError, match="no such folder"):
        Predictor.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no mmfeat.json there"):
        Predictor.load(tmp_path)
    assert json.loads(text)["classes"]


def test_prepared_items_are_predicted_as_any_others_each_by_its_threshold(predictor, samples):
    images = [image if i % 3 else None for i, image in enumerate(samples[0][:40])]
    captions = [caption if i % 4 else None for i, caption in enumerate(samples[1][:40])]
    wanted = predictor.predict(images, captions)
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(predictor.prepare, images, captions))
    found = predictor.predict_prepared(items)
    assert np.allclose(found.probs, wanted.probs, atol=1e-5)
    assert np.array_equal(found.known, wanted.known)
    assert all(np.allclose(found.unimodal[n], wanted.unimodal[n], atol=1e-5, equal_nan=True) for n in found.unimodal)
    thresholds = [None, 0.0, 1.0]
    own = predictor.predict_prepared(items[1:4], thresholds)
    for i, threshold in enumerate(thresholds, start=1):
        assert own[i - 1].labels == predictor.predict(images[i], captions[i], threshold=threshold).labels


def test_an_item_that_cannot_be_prepared_says_why(predictor, tmp_path):
    for image, caption in [(b"no image", "x"), (tmp_path / "none.jpg", None), (None, 5), ([b""] * 2, None)]:
        with pytest.raises(DataError):
            predictor.prepare(image, caption)


def test_images_that_pillow_has_only_opened_may_be_shared(predictor, samples, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(samples[0][0])
    wanted = predictor.predict(path, "a").probabilities
    for found in predictor.predict([Image.open(path)] * 8 + [(image := Image.open(path))] * 24, ["a"] * 32):
        assert found.probabilities == pytest.approx(wanted, abs=1e-5)
    assert image.size


@pytest.mark.parametrize("size", [-1, 0, 1.5])
def test_a_batch_size_that_is_none_is_said(predictor, samples, size):
    with pytest.raises(DataError, match="batch_size"):
        predictor.predict(samples[0][:2], batch_size=size)


@pytest.mark.parametrize("threshold", [-1, 2, float("nan"), "0.5", [0.5], None])
def test_a_threshold_that_is_none_is_said(predictor, threshold):
    if threshold is None:
        assert predictor.predict(None, "a", threshold=np.zeros(len(predictor.classes))).labels
        return
    with pytest.raises(DataError, match="threshold"):
        predictor.predict(None, "a", threshold=threshold)


def test_a_folder_is_opened_by_load(exported):
    with pytest.raises(TypeError, match=r"an exported folder is opened by Predictor.load\(FOLDER\)"):
        Predictor(exported)
