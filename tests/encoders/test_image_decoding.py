"""Every image becomes RGB by one rule: what it holds decides the scale, and metadata never cost pixels."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from helpers.images import RAMP, chunk, png16, saved
from PIL import Image, ImageFile

from mmfeat.data.images.image_bytes import deep, pixel_digest, without_metadata
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.decoder_0_1 import has_other_pixels
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.image_decoding import decode_image, loaded, open_image, upright_rgb

SHOWN = np.floor(RAMP * 255).astype(int)
NOISE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
PICTURE = Image.fromarray(NOISE)
TURNS = dict(enumerate((None, 0, 3, 1, 5, 4, 6, 2), 1))


def pixels(data: bytes, decoding: Decoding | None = None) -> np.ndarray:
    return np.asarray(decode_image(data, decoding or Decoding())).astype(int)


@pytest.mark.parametrize("top", [1, 255, 4095, 65535])
@pytest.mark.parametrize("kind", ["float tiff", "int32 tiff", "uint16 tiff", "uint16 png", "packbits tiff"])
def test_grey_of_more_than_8_bits_is_scaled_by_what_it_holds(kind, top):
    if top == 1 and kind != "float tiff":
        pytest.skip("whole numbers from 0 to 1 are nearly black")
    dtype = {"float": np.float32, "int32": np.int32}.get(kind.split()[0], np.uint16)
    values = (RAMP * top).astype(dtype)
    options = {"compression": "packbits"} if kind.startswith("packbits") else {}
    found = pixels(saved(values, kind.split()[1].upper(), **options))
    assert np.abs(found - SHOWN[..., None]).max() <= 1


@pytest.mark.parametrize("top", [255, 4095, 65535])
@pytest.mark.parametrize("alpha", [None, 65535, "as the colours"])
def test_colours_of_16_bits_are_scaled_by_what_they_hold(top, alpha):
    values = np.stack([RAMP, RAMP, RAMP[::-1]], -1) * top
    if alpha is not None:
        values = np.concatenate([values, np.full((*RAMP.shape, 1), top if alpha != 65535 else alpha)], -1)
    found = pixels(png16(values.astype(np.uint16)))
    assert np.abs(found[..., :2] - SHOWN[..., None]).max() <= 1
    assert np.abs(found[..., 2] - SHOWN[::-1]).max() <= 1


def test_values_that_are_none_and_values_below_0():
    values = RAMP.copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    found = pixels(saved(values, "TIFF"))
    assert found[0, :3, 0].tolist() == [0, 255, 0]
    found[0, :3], shown = 0, SHOWN.copy()
    shown[0, :3] = 0
    assert np.abs(found - shown[..., None]).max() <= 1
    assert pixels(saved(np.full((4, 4), np.nan, np.float32), "TIFF")).max() == 0
    assert pixels(saved(np.array([[-5, 0, 255]], np.int32), "TIFF"))[0, :, 0].tolist() == [0, 0, 255]


def test_what_the_file_states_counts():
    dark = (RAMP * 200).astype(np.uint16)
    stated = saved(dark, "TIFF", tiffinfo={281: 4095})
    assert np.abs(pixels(stated)[..., 0] - dark // 16).max() <= 1
    grey = saved(dark, "PPM")  # Pillow scales to 16 bits what a PGM says
    assert np.abs(pixels(grey)[..., 0] - dark // 256).max() <= 1


def test_a_given_image_is_decoded_as_its_file(tmp_path):
    for data in (saved(RAMP, "TIFF"), png16(np.stack([RAMP * 4095] * 3, -1).astype(np.uint16))):
        assert np.array_equal(np.asarray(upright_rgb(Image.open(io.BytesIO(data)))), pixels(data))
        path = tmp_path / "file"
        path.write_bytes(data)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(upright_rgb(loaded(image))), pixels(data))
    assert np.abs(np.asarray(upright_rgb(Image.fromarray(RAMP)))[..., 0] - SHOWN).max() <= 1


def test_only_images_whose_scale_changed_have_other_pixels_than_before():
    grey = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    alike = [
        saved(grey, "PNG"),
        saved(grey, "TIFF"),
        saved(grey.astype(np.int32), "TIFF"),
        saved(grey.astype(np.float32), "TIFF"),
        saved(PICTURE, "TIFF"),
        saved(PICTURE, "PNG"),
        saved(PICTURE, "JPEG"),
        png16(np.stack([grey] * 3, -1)),
    ]
    other = [
        saved(grey >> 4, "PNG"),
        saved(grey >> 8, "TIFF"),
        saved((grey >> 8).astype(np.int32), "TIFF"),
        saved(RAMP, "TIFF"),
        png16(np.stack([grey >> 4] * 3, -1)),
    ]
    assert [has_other_pixels(data) for data in alike] == [False] * len(alike)
    assert [has_other_pixels(data) for data in other] == [True] * len(other)
    assert all(deep(data) for data in other)
    assert not any(deep(saved(PICTURE, kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"))


# Metadata ------------------------------------------------------------------------------------------------------------


def with_png(before: bytes = b"", after: bytes = b"") -> bytes:
    data = saved(PICTURE, "PNG")
    return data[:33] + before + data[33:-12] + after + data[-12:]


def with_jpeg(marker: int, payload: bytes) -> bytes:
    data = saved(PICTURE, "JPEG", quality=95)
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


LONG = zlib.compress(b"x" * (2 << 20))
DAMAGED = {
    "png text of 2 MB": with_png(chunk(b"zTXt", b"a\0\0" + LONG)),
    "png text of 2 MB at the end": with_png(after=chunk(b"zTXt", b"a\0\0" + LONG)),
    "png international text": with_png(chunk(b"iTXt", b"a\0\1\0\0\0" + LONG)),
    "png 70 MB of texts": with_png(b"".join([chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 10**6))] * 70)),
    "png profile of 2 MB": with_png(chunk(b"iCCP", b"a\0\0" + LONG)),
    "png profile cut short": with_png(chunk(b"iCCP", b"")),
    "png raw profile": with_png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 8\nzzzz")),
    "png text with a wrong checksum": with_png(chunk(b"tEXt", b"a\0b", 5)),
    "png gamma cut short": with_png(chunk(b"gAMA", b"")),
    "png size in metres cut short": with_png(chunk(b"pHYs", b"1")),
    "png private chunk": with_png(chunk(b"prVt", b"12", 7)),
    "jpeg profile cut short": with_jpeg(0xE2, b"ICC_PROFILE\0"),
    "jpeg JFIF cut short": with_jpeg(0xE0, b"JFIF\0"),
    "jpeg Adobe cut short": with_jpeg(0xEE, b"Adobe\0"),
    "jpeg EXIF cut short": with_jpeg(0xE1, b"Exif\0\0MM"),
    "jpeg EXIF of nothing": with_jpeg(0xE1, b"Exif\0\0 is not here"),
    "webp": saved(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0junk", icc_profile=b"junk", xmp=b"<x"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_metadata_never_cost_pixels(name):
    plain = pixels(saved(PICTURE, "JPEG", quality=95)) if name.startswith("jpeg") else NOISE
    data = DAMAGED[name]
    assert np.array_equal(pixels(data), plain)
    assert np.array_equal(np.asarray(upright_rgb(open_image(data, ("JPEG", "PNG", "WEBP")))), plain)  # as serve does
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_kept_where_other_metadata_are_left_out(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = PICTURE if orientation == 1 else PICTURE.transpose(TURNS[orientation])
    text = chunk(b"zTXt", b"a\0\0" + LONG)
    png = saved(PICTURE, "PNG", exif=exif)
    raw = b"Raw profile type exif\0\nexif\n 8\n" + exif.tobytes().hex().encode()
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="%d"/>' % orientation
    for data in (
        png[:33] + text + png[33:],
        with_png(text + chunk(b"tEXt", raw)),
        with_png(text + chunk(b"zTXt", raw.replace(b"\0", b"\0\0", 1)[:23] + zlib.compress(raw.partition(b"\0")[2]))),
        with_png(text + chunk(b"iTXt", xmp)),
    ):
        assert np.array_equal(pixels(data), np.asarray(shown))


# What Pillow warns of while the tests read tags themselves.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def damaged_exif(draw: random.Random) -> tuple[int, bytes]:
    """An orientation, and EXIF data with it that are damaged around its entry."""
    orientation = draw.randint(1, 8)
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x0131], exif[0x011A] = "words", orientation, "software", 72.0
    exif.get_ifd(0x8769)[0x9003], exif.get_ifd(0x8769)[0x927C] = "2020:01:01 00:00:00", b"maker" * 10
    exif.get_ifd(0x8825)[1], exif.get_ifd(0x8825)[2] = "N", (1.0, 2.0, 3.0)
    data = bytearray(exif.tobytes())
    entry = data.find(struct.pack(">HHI", 0x0112, 3, 1))
    assert entry > 0
    for _ in range(draw.randint(1, 30)):
        at = draw.randrange(6, len(data))
        if not entry <= at < entry + 12:
            data[at] = draw.randrange(256)
    return orientation, bytes(data[: draw.choice([len(data), draw.randrange(entry + 12, len(data))])])


def told(exif: bytes) -> int:
    """The orientation as Pillow reads it, 1 where it cannot."""
    found = Image.Exif()
    try:
        found.load(exif)
        return found.get(0x0112, 1)
    except Exception:
        return 1


def fuzz(n: int, seed: int) -> int:
    """Decode `n` images of each format with damaged EXIF; returns how many of the tags could be read."""
    draw, n_right = random.Random(seed), 0
    for kind, options in {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}}.items():
        plain = decode_image(saved(PICTURE, kind, **options))
        for _ in range(n):
            orientation, exif = damaged_exif(draw)
            found = told(exif)
            data = saved(PICTURE, kind, exif=exif, **options)
            shown = plain if TURNS.get(found) is None else plain.transpose(TURNS[found])
            assert np.array_equal(pixels(data), np.asarray(shown)), (kind, exif)
            bare = without_metadata(data)
            assert pixel_digest(bare) == pixel_digest(data) == pixel_digest(saved(PICTURE, kind, **options))
            n_right += found == orientation
    return n_right


def test_damaged_exif_never_costs_pixels():
    assert fuzz(150, seed=0) > 200


@pytest.mark.exhaustive
def test_damaged_exif_never_costs_pixels_thousands():
    assert fuzz(4000, seed=1) > 6000


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_jpeg_that_lacks_its_end_is_taken_where_the_setting_says_so():
    image = Image.fromarray(np.kron(NOISE, np.ones((8, 8, 1), np.uint8)))
    whole = saved(image, "JPEG", quality=95)
    accept = Decoding(truncated="accept")
    assert np.array_equal(pixels(whole, accept), pixels(whole))
    for cut in (1, 2, 5, 60):
        with pytest.raises(OSError, match=r'truncated.*\[data\] truncated = "accept"'):
            decode_image(whole[:-cut])
        assert np.array_equal(pixels(whole[:-cut], accept)[:48], pixels(whole)[:48])
    with pytest.raises(OSError):
        decode_image(whole[:200], accept)  # it ends before its pixels
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_one_thread_s_setting_is_no_other_s():
    data, failed = saved(PICTURE, "JPEG", quality=95)[:-3], []

    def refused() -> None:
        for _ in range(200):
            try:
                decode_image(data)
                failed.append("taken")
            except OSError:
                pass

    threads = [threading.Thread(target=refused) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        decode_image(data, Decoding(truncated="accept"))
    for thread in threads:
        thread.join()
    assert not failed


def test_the_limit_of_pixels_is_a_setting_that_the_message_names():
    large = saved(Image.new("1", (2000, 1000)), "PNG")
    with pytest.raises(Image.DecompressionBombError, match=r"2\.0 megapixels, and \[data\] max_megapixels is 1\.5"):
        decode_image(large, Decoding(max_megapixels=1.5))
    assert decode_image(large).size == (2000, 1000)
    code = (  # in a process of its own, since Pillow has one limit for all
        "import io, sys; from PIL import Image; Image.MAX_IMAGE_PIXELS = 500_000\n"
        "from mmfeat.encoders.image_decoding import decode_image, Decoding\n"
        "data = io.BytesIO(); Image.new('1', (2000, 1000)).save(data, 'PNG')\n"
        "try: decode_image(data.getvalue(), Decoding(max_megapixels=1)); sys.exit('taken')\n"
        "except Image.DecompressionBombError as error: assert '2.0 megapixels' in str(error), error\n"
        "assert decode_image(data.getvalue(), Decoding(max_megapixels=2)).size == (2000, 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_flat_images_are_told():
    from mmfeat.encoders.preparation import ImagePreparation

    config = {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    preparation = ImagePreparation(config)
    nearly = np.full((40, 40, 3), 90, np.uint8)
    nearly[::2] = 91
    line = np.zeros((32, 32), np.uint8)
    line[:, 3] = 255  # between those that are looked at first
    assert preparation.is_flat(preparation.prepare(saved(nearly, "PNG")))
    assert not preparation.is_flat(preparation.prepare(saved(line, "PNG")))
    assert not preparation.is_flat(preparation.prepare(saved(PICTURE, "PNG")))
    assert not preparation.is_flat(preparation.prepare(saved(RAMP, "TIFF")))
    with pytest.raises(UndecodableSample):
        preparation.prepare(b"")
