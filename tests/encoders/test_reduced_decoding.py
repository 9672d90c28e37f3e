"""Large JPEGs decoded at 1/2, 1/4 or 1/8: close to the full decode, never too small, and nothing else changes."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
from helpers.encoders import TINY, image_encoder
from helpers.images import saved
from PIL import Image

from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.finetuning.augmentation import ImageAugmentation
from mmfeat.encoders.given_images import read_given_image
from mmfeat.encoders.image_decoding import decode_image, reduction_of
from mmfeat.encoders.portable import load_encoder, load_preparation, save_encoder, save_preparation
from mmfeat.encoders.preparation import REDUCED, ImagePreparation
from mmfeat.store.keys import explain

SIZE, CROP = 32, 0.875
SIDE = REDUCED * int(SIZE / CROP)  # both sides of a reduced JPEG have at least so many pixels
ON = dataclasses.replace(TINY, reduced_decoding=True)


def config(**changes) -> dict:
    colours = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return {"input_size": (3, SIZE, SIZE), "interpolation": "bicubic", "crop_pct": CROP, **colours, **changes}


def preparation(reduced: bool = True, decoding: Decoding | None = None, **changes) -> ImagePreparation:
    return ImagePreparation(config(**changes), decoding or Decoding(), reduced=reduced)


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """An image of large and small structures, as photographs have."""
    draw = np.random.default_rng(0)
    layers = [
        np.asarray(Image.fromarray(draw.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height)), np.float32)
        for n in (4, 16, 64)
    ]
    values = (layers[0] * 0.6 + layers[1] * 0.3 + layers[2] * 0.1).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def exif(turn: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = turn
    return found.tobytes()


def mpo(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "MPO", save_all=True, append_images=[image.resize((80, 60))], quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((640, 600), 8),
        ((576, 900), 8),
        ((575, 900), 4),
        ((300, 500), 4),
        ((144, 999), 2),
        ((143, 300), 1),
        ((90, 70), 1),
    ],
)
def test_both_sides_keep_twice_what_they_are_resized_to(size, scale):
    data = saved(photograph(*size), "JPEG", quality=90)
    found = preparation().decode(data)
    assert found.size == tuple(math.ceil(side / scale) for side in size)
    assert scale == 1 or min(found.size) >= SIDE
    assert preparation(False).decode(data).size == size


@pytest.mark.parametrize(
    ("size", "crop_mode"),
    [
        ((640, 600), "center"),
        ((904, 400), "squash"),
        ((640, 600), "border"),
        ((1333, 1999), "center"),
        ((1801, 1051), "squash"),
    ],
)
def test_the_result_is_close_to_the_full_decode(size, crop_mode):
    data = saved(photograph(*size), "JPEG", quality=90)
    changes = {"crop_mode": crop_mode, "input_size": (3, 128, 128) if min(size) > 1000 else (3, SIZE, SIZE)}
    full, reduced = (preparation(on, **changes).prepare(data).float() for on in (False, True))
    assert (full - reduced).abs().mean() < 1


@pytest.mark.parametrize(
    "data",
    [
        saved(photograph(640, 600), "JPEG", quality=90, progressive=True),
        saved(photograph(640, 600), "JPEG", quality=90, subsampling=2, optimize=True),
        saved(photograph(640, 600, "CMYK"), "JPEG", quality=90),
        saved(photograph(640, 600, "L"), "JPEG", quality=90),
        mpo(photograph(640, 600)),
    ],
    ids=["progressive", "subsampled", "cmyk", "grey", "mpo"],
)
def test_every_kind_of_jpeg_is_reduced(data):
    assert preparation().decode(data).size == (80, 75)
    full, reduced = (preparation(on).prepare(data).float() for on in (False, True))
    assert (full - reduced).abs().mean() < 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_reduced_image_is_upright(turn):
    data = saved(photograph(640, 480), "JPEG", quality=90, exif=exif(turn))
    full, reduced = (preparation(on).prepare(data).float() for on in (False, True))
    assert preparation().decode(data).size == ((160, 120) if turn < 5 else (120, 160))
    assert (full - reduced).abs().mean() < 1


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_no_fraction_of_a_pixel_is_lost(turn, crop_mode):
    """Sizes that 8 does not divide: the last reduced column and row are partly outside, wherever the image is turned to."""
    data = saved(photograph(601, 747), "JPEG", quality=90, exif=exif(turn))
    found = preparation(crop_mode=crop_mode)
    image = found.decode(data)
    reduced = reduction_of(image)
    assert reduced.size == preparation(False).decode(data).size
    left, top, right, bottom = reduced.box
    assert (right - left, bottom - top) == tuple(side / 8 for side in reduced.size)
    assert min(reduced.box) >= 0
    assert (right <= image.width, bottom <= image.height) == (True, True)
    resize = preparation(False, crop_mode=crop_mode).transform.transforms[0]
    assert found._resized(image).size == resize(Image.new("L", reduced.size)).size
    full = preparation(False, crop_mode=crop_mode).prepare(data).float()
    assert (full - found.prepare(data).float()).abs().mean() < 1


@pytest.mark.parametrize("size", [(1999, 1333), (2000, 1501), (4032, 3024), (1234, 5678), (1025, 1024)])
def test_the_size_is_the_one_that_the_transform_gives_the_whole_image(size):
    found = preparation(input_size=(3, 224, 224))
    image = found.decode(saved(Image.new("L", size), "JPEG"))
    assert found._resized(image).size == found.transform.transforms[0](Image.new("1", size)).size


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_and_small_jpegs_have_the_pixels_that_they_had(kind):
    for data in (saved(photograph(640, 480), kind), saved(photograph(140, 120), "JPEG")):
        assert np.array_equal(preparation().prepare(data), preparation(False).prepare(data))


def test_a_jpeg_that_lacks_its_end_is_treated_as_at_full_size():
    whole, accept = saved(photograph(640, 600), "JPEG", quality=90), Decoding(truncated="accept")
    for cut in (1, 2, 5, 3000):
        reasons = []
        for on in (False, True):
            with pytest.raises(UndecodableSample, match=r'truncated.*\[data\] truncated = "accept"') as error:
                preparation(on).decode(whole[:-cut])
            reasons.append(str(error.value))
        assert reasons[0] == reasons[1]
        full, reduced = (preparation(on, accept).decode(whole[:-cut]) for on in (False, True))
        assert (full.size, reduced.size) == ((640, 600), (80, 75))


def test_broken_metadata_cost_neither_pixels_nor_speed():
    data = saved(photograph(640, 600), "JPEG", quality=90, exif=exif(3))
    broken = data.replace(b"\xff\xe1", b"\xff\xe1", 1).replace(b"Exif\0\0", b"Exif\0\xff", 1)
    for one in (data, broken):
        assert preparation().decode(one).size == (80, 75)


def test_the_limit_of_pixels_is_that_of_the_file():
    data = saved(photograph(640, 600), "JPEG")
    for on in (False, True):
        with pytest.raises(UndecodableSample, match=r"0\.4 megapixels"):
            preparation(on, Decoding(max_megapixels=0.3)).decode(data)


def test_without_the_setting_a_key_has_no_entry_and_with_it_another_value(tmp_path):
    off, on = image_encoder(tmp_path), image_encoder(tmp_path, ON)
    assert not [key for key in off.spec().preprocessing if "reduced" in key]
    assert on.spec().preprocessing == off.spec().preprocessing | {"reduced_decoding": "at least 2 x"}
    assert on.spec().key != off.spec().key
    assert explain(off.spec(), on.spec()) == "preprocessing changed: reduced_decoding none -> at least 2 x"


@pytest.mark.parametrize("table", [TINY, ON], ids=["off", "on"])
def test_an_exported_encoder_decodes_as_the_project(tmp_path, table):
    encoder = image_encoder(tmp_path, table)
    record = save_preparation(encoder, tmp_path / "preparation")
    assert ("reduced_decoding" in record) == table.reduced_decoding  # folders of older versions have no entry
    data = saved(photograph(900, 800), "JPEG", quality=90)
    found = load_preparation(record, tmp_path / "preparation")
    assert found.describe() == encoder.preprocessing()
    assert np.array_equal(found.prepare(data), encoder.prepare(data))
    again = load_encoder("image", save_encoder(encoder, tmp_path / "encoder"), tmp_path / "encoder")
    assert again.spec().key == encoder.spec().key
    assert np.array_equal(again.prepare(data), encoder.prepare(data))


def test_a_given_image_of_pillow_is_decoded_as_its_file():
    data = saved(photograph(900, 800), "JPEG", quality=90)
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(preparation().prepare(read_given_image(image)), preparation().prepare(data))
    assert image.size == (900, 800)  # the caller's image stays as it was
    image.load()
    assert read_given_image(image) is image
    second = Image.open(io.BytesIO(mpo(photograph(640, 600))))
    second.seek(1)
    assert read_given_image(second).size == (80, 60)
    drafted = Image.open(io.BytesIO(data))
    drafted.draft("L", (100, 100))
    assert read_given_image(drafted).size == drafted.size


def test_training_decodes_as_encoding_and_crops_keep_their_pixels(tmp_path):
    encoder, data = image_encoder(tmp_path, ON), saved(photograph(900, 800), "JPEG", quality=90)
    augmentation = ImageAugmentation(encoder, FinetuneConfig())
    assert np.array_equal(augmentation(data, None), encoder.prepare(data))
    assert np.array_equal(augmentation(data, 2), encoder.prepare(data))
    for size in (0, 64):
        both = []
        for table in (TINY, ON):
            cropping = ImageAugmentation(image_encoder(tmp_path, table), FinetuneConfig(crop=0.3))
            both.append([cropping(data, number, size).float() for number in range(8)])
        assert max(float((a - b).abs().mean()) for a, b in zip(*both, strict=True)) < 1.5


def test_half_of_a_side_needs_twice_the_pixels():
    data = saved(photograph(640, 600), "JPEG")
    assert preparation().decode(data).size == (80, 75)
    assert preparation().decode(data, part=0.5).size == (160, 150)
    assert decode_image(data).size == (640, 600)
