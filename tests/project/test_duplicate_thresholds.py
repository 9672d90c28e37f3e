"""Thresholds of near-duplicates: calibrated once for each encoder key, and left out where that is impossible."""

from __future__ import annotations

import io
import shutil

import numpy as np
from helpers.edits import edited
from PIL import Image

from mmfeat.audit.copy_search import PIXELS
from mmfeat.encoders.decoding import USUAL
from mmfeat.extraction.sample_copies import KINDS, caption_variants, copies_of
from mmfeat.project.duplicate_thresholds import DuplicateThresholds
from mmfeat.project.project import Project


def test_thresholds_are_calibrated_once(extracted, monkeypatch):
    notes = []
    found = DuplicateThresholds(extracted).of(["image", "text"], notes)
    assert set(found) == {"image", "text", PIXELS}
    assert not notes
    assert 0 < found["image"] < 1
    assert 0.55 <= found[PIXELS] <= 0.8
    monkeypatch.setattr("mmfeat.extraction.sample_copies.copies_of", None)
    monkeypatch.setattr("mmfeat.project.duplicate_thresholds.open_session", None)
    assert DuplicateThresholds(Project(extracted.root)).of(["image", "text"], notes) == found


def test_another_encoder_is_calibrated_again(extracted):
    found = DuplicateThresholds(extracted).of(["image"], [])
    other = edited(extracted, "size = 32", "size = 64")
    from mmfeat.project.encoding import extract

    extract(other, ["image"])
    again = DuplicateThresholds(other).of(["image"], [])
    assert again["image"] != found["image"]
    assert again[PIXELS] == found[PIXELS]
    assert DuplicateThresholds(Project(extracted.root)).of(["image"], []) == again


def test_without_pictures_the_others_are_calibrated(extracted, small_source):
    source = extracted.root / "source"
    shutil.copytree(small_source, source)
    moved = edited(extracted, str(small_source), str(source))
    DuplicateThresholds(moved).of(["text"], [])
    for file in {*source.glob("*.zip"), *source.glob("images*")}:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    (moved.root / ".mmfeat" / "duplicates.json").unlink()
    notes = []
    found = DuplicateThresholds(Project(moved.root)).of(["image", "text"], notes)
    assert set(found) == {"text"}


def test_copies_are_what_their_names_say():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((800, 600))
    file = io.BytesIO()
    image.save(file, "JPEG")
    copies = dict(
        zip(KINDS, (Image.open(io.BytesIO(one)) for one in copies_of(file.getvalue(), USUAL, 3)), strict=True)
    )
    assert copies["re-encoded"].size == (640, 480)
    assert copies["resized"].width < 520
    assert copies["cropped"].size == (576, 432)
    mirrored = np.asarray(copies["mirrored"], int)[:, ::-1]
    assert np.abs(mirrored - np.asarray(image.resize((640, 480)), int)).mean() < 12


def test_variants_of_a_caption():
    assert caption_variants("Two dogs, on a Bench.") == [
        "two dogs on a bench",
        "Two dogs, a Bench.",
        "Two dogs, a on Bench.",
    ]
    assert caption_variants("dog") == ["dog", "", "dog"]
