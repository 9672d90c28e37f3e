"""Odd images and captions, from the files to the store: encoded right or recorded with a reason; no other row is touched."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import saved
from helpers.projects import TINY
from PIL import Image

from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.families.image_network import ImageEncoder
from mmfeat.encoders.families.transformer_text import TextEncoder
from mmfeat.encoders.image_decoding import decode_image
from mmfeat.project.encoding import ExtractionOptions, extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.status import status

rng = np.random.default_rng(0)
SMOOTH = np.kron(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))  # (48, 40, 3)
GREY = SMOOTH[..., 0]
PICTURE = Image.fromarray(SMOOTH)


def rgb(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def rotated(orientation: int) -> bytes:
    """A JPEG whose pixels lie otherwise than its EXIF says they should be shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = (None, 0, 3, 1, 5, 2, 6, 4)[orientation - 1]  # the transposition that showing takes back
    image = PICTURE if undo is None else PICTURE.transpose(Image.Transpose(undo))
    return saved(image, "JPEG", quality=95, subsampling=0, exif=exif)


def palette() -> tuple[bytes, Image.Image]:
    """Three colours, of which the second is half transparent and the third wholly."""
    index = (np.arange(48 * 40).reshape(48, 40) // 7 % 3).astype(np.uint8)
    image = Image.frombytes("P", (40, 48), index.tobytes())
    image.putpalette([200, 30, 30, 30, 200, 30, 30, 30, 200])
    colours = np.array([[200, 30, 30], [142, 227, 142], [255, 255, 255]], np.uint8)
    return saved(image, "PNG", transparency=bytes([255, 128, 0])), Image.fromarray(colours[index])


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


CMYK = saved(PICTURE.convert("CMYK"), "JPEG", quality=95)
GIF = saved(PICTURE, "GIF", save_all=True, append_images=[Image.new("RGB", PICTURE.size, c) for c in ("red", "blue")])
LARGE = saved(Image.new("1", (9500, 9500), 1), "PNG")  # above the count of pixels at which Pillow warns

# Name to its bytes (None: made with a link), and what to find: the same pixels as a plain RGB image, or part of the reason.
IMAGES: dict[str, tuple[bytes | None, Image.Image | str]] = {
    "truncated.jpg": (saved(PICTURE, "JPEG")[:-60], "truncated"),
    "zero-byte.jpg": (b"", "empty file"),
    "text.jpg": (b"this is no image\n" * 50, "no image that Pillow knows"),
    "cmyk.jpg": (CMYK, rgb(CMYK)),
    "16-bit.png": (saved(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), Image.fromarray(GREY).convert("RGB")),
    "palette.png": palette(),
    "rotated.jpg": (rotated(6), rgb(rotated(6)).transpose(Image.Transpose.ROTATE_270)),
    "animated.gif": (GIF, rgb(GIF)),
    "pixel.png": (saved(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), Image.new("RGB", (1, 1), (9, 99, 199))),
    "bomb.png": (png_header(100_000, 100_000), "DecompressionBombError"),
    "large.png": (LARGE, Image.new("RGB", (32, 32), "white")),
    "refused.jpg": (saved(PICTURE, "JPEG"), "Permission denied"),
    "loop.jpg": (None, "Too many levels of symbolic links"),
    "dangling.jpg": (None, "No such file"),
    "link.png": (None, PICTURE),
}
# Bytes of the caption, and another that the tokenizer of the tests reads in the same way; None: there is none.
CAPTIONS: dict[str, tuple[bytes, str | None]] = {
    "100,000 characters": (("circle " * 15_000)[:100_000].encode(), "circle " * 100),
    "emoji only": ("🙂🎈".encode(), "unknownword"),
    "no UTF-8": (b"a \xff\xc3 circle", "a circle"),
    "surrogate": (b"a \xed\xa0\x80 circle", "a circle"),
    "NUL": (b"a \0circle", "a circle"),
    "blank": (b" \t ", None),
    "blank by Unicode": ("\u3000\u00a0".encode(), None),
}
N_PLAIN = 24


def write_project(folder, source, images: dict[str, bytes], rows: list[tuple[str, str, bytes]], text) -> Project:
    """A project of a table whose images lie in a folder."""
    (source / "images").mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (source / "images" / name).write_bytes(data)
    lines = [b'%s,%s,"%s",%s\n' % (i.encode(), n.encode(), c, (b"x", b"y")[k % 2]) for k, (i, n, c) in enumerate(rows)]
    (source / "table.csv").write_bytes(b"id,image,caption,labels\n" + b"".join(lines))
    folder.mkdir()
    settings = TINY.format(source=json.dumps(str(source / "table.csv")), text=json.dumps(str(text)))
    (folder / "mmfeat.toml").write_text(settings, encoding="utf-8")
    init(folder)
    return Project(folder)


@pytest.fixture(scope="module")
def both(tmp_path_factory, small_source):
    """A project of plain rows with odd ones between them, and one without these but with what they should look like.

    Each sample is encoded on its own, since the last bits of an embedding may depend on what shares its batch.
    """
    root = tmp_path_factory.mktemp("inputs")
    sources = ImageSources([small_source / "images.zip"])
    plain = [(f"{i:04d}.jpg", f"{'circle ' * i}square".encode()) for i in range(N_PLAIN)]
    pictures = {name: sources.read(sources.locate(name)) for name, _ in plain}
    rows = [(name, name, caption) for name, caption in plain]
    odd_rows = [(name, name, b"a square") for name in IMAGES]
    odd_rows += [(name.replace(",", ""), "", caption) for name, (caption, _) in CAPTIONS.items()]
    mixed = [row for k, first in enumerate(rows) for row in (first, *odd_rows[k : k + 1])]
    assert len(mixed) == len(rows) + len(odd_rows)
    odd_source = root / "odd-source"
    (odd_source / "images" / "folder").mkdir(parents=True)
    (odd_source / "images" / "folder" / "back").symlink_to(odd_source / "images")
    (odd_source / "images" / "loop.jpg").symlink_to("loop.jpg")
    (odd_source / "images" / "dangling.jpg").symlink_to("nowhere.jpg")
    (odd_source / "link-target").write_bytes(saved(PICTURE, "PNG"))
    (odd_source / "images" / "link.png").symlink_to(odd_source / "link-target")

    read = ImageSources.read
    kinds = {"image": ImageEncoder, "text": TextEncoder}
    encode = {modality: kind.forward for modality, kind in kinds.items()}

    def one_by_one(self, batch):
        def alone(i):
            length = batch["attention_mask"][i].sum() if "attention_mask" in batch else None
            return {name: values[i : i + 1, :length] for name, values in batch.items()}

        n = len(next(iter(batch.values())))
        return torch.cat([encode[self.modality](self, alone(i)) for i in range(n)])

    def refusing(self, location):
        if location.file.endswith("refused.jpg"):
            raise PermissionError(13, "Permission denied")
        return read(self, location)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageSources, "read", refusing)
        for kind in kinds.values():
            patch.setattr(kind, "forward", one_by_one)
        odd_images = {name: data for name, (data, _) in IMAGES.items() if data is not None}
        odd = write_project(root / "odd", odd_source, {**pictures, **odd_images}, mixed, small_source / "text-encoder")
        like = {f"{name}.png": saved(v, "PNG") for name, (_, v) in IMAGES.items() if isinstance(v, Image.Image)}
        like_rows = [(name.removesuffix(".png"), name, b"a square") for name in like]
        like_rows += [(name.replace(",", ""), "", v.encode()) for name, (_, v) in CAPTIONS.items() if v]
        whole = write_project(
            root / "plain", root / "plain-source", {**pictures, **like}, rows + like_rows, small_source / "text-encoder"
        )
        results = extract(odd), extract(whole)
        counts = status(Project(odd.root))
    return odd, whole, results[0], counts


def at(project: Project, sample: str) -> int:
    (row,) = np.flatnonzero(project.manifest.ids == sample)
    return int(row)


def embedding(project: Project, name: str, sample: str) -> np.ndarray | None:
    table = project.feature_table([name])
    row = at(project, sample)
    return np.asarray(table.embeddings[name][row : row + 1]) if table.present[name][row] else None


@pytest.mark.parametrize("sample", IMAGES)
def test_an_odd_image_is_encoded_right_or_recorded_with_its_reason(both, sample):
    odd, whole, result, _ = both
    expected = IMAGES[sample][1]
    found = embedding(odd, "image", sample)
    if isinstance(expected, str):
        assert found is None
        assert expected in result.reasons["image"][sample]
        assert "0x" not in result.reasons["image"][sample]  # the same in every run
    else:
        assert sample not in result.reasons["image"]
        assert np.array_equal(found, embedding(whole, "image", sample))


@pytest.mark.parametrize("sample", CAPTIONS)
def test_an_odd_caption_is_encoded_right_or_absent(both, sample):
    odd, whole, result, _ = both
    sample, expected = sample.replace(",", ""), CAPTIONS[sample][1]
    found = embedding(odd, "text", sample)
    assert result.reasons["text"] == {}
    if expected is None:
        assert found is None
    else:
        assert np.array_equal(found, embedding(whole, "text", sample))


@pytest.mark.parametrize("name", ["image", "text"])
def test_every_other_row_is_as_without_the_odd_ones_and_in_place(both, name):
    odd, whole, _, _ = both
    ids = [f"{i:04d}.jpg" for i in range(N_PLAIN)]
    assert [i for i in odd.manifest.ids if i in ids] == ids
    a, b = (
        project.feature_table([name]).embeddings[name][np.array([at(project, i) for i in ids])]
        for project in (odd, whole)
    )
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert len(np.unique(a, axis=0)) == N_PLAIN


def test_the_counts_add_up(both):
    odd, _, result, counts = both
    n_rows = N_PLAIN + len(IMAGES) + len(CAPTIONS)
    n_reasons = sum(isinstance(expected, str) for _, expected in IMAGES.values())
    n_blank = sum(expected is None for _, expected in CAPTIONS.values())
    assert odd.manifest.n_samples == n_rows
    for one in result.encoders:
        assert one.cached + one.encoded + one.repeated + one.unreadable + one.absent == n_rows
        assert one.unreadable == (n_reasons if one.name == "image" else 0)
        assert one.absent == (len(CAPTIONS) if one.name == "image" else n_blank)
    for one in counts.encoders:
        assert one.cached + one.missing + one.stale + one.unreadable + one.absent == n_rows
        assert (one.missing, one.stale) == (0, 0)
        assert one.unreadable == (n_reasons if one.name == "image" else 0)


def test_init_notes_what_it_replaced_and_what_it_could_not_read(both):
    log = (both[0].root / "init.log").read_text(encoding="utf-8")
    assert log.count("not UTF-8 became U+FFFD") == 2
    assert "image of 'refused.jpg': Permission denied" in log
    captions = Manifest.load(both[0].root / "manifest.parquet").captions
    assert "a \ufffd\ufffd circle" in captions
    assert "a \0circle" in captions


def test_nothing_to_do_is_nothing_to_do(both):
    assert [one.encoded for one in extract(Project(both[1].root)).encoders] == [0, 0]


@pytest.mark.parametrize("ask", [lambda p, rehash: extract(p, options=ExtractionOptions(rehash=rehash)), status])
def test_rehash_sees_what_size_time_and_inode_hide(tmp_path, small_source, ask):
    images = {f"{i}.png": saved(Image.new("RGB", (8, 8), (i, i, i)), "PNG") for i in range(8)}
    rows = [(name, name, b"a circle") for name in images]
    project = write_project(tmp_path / "project", tmp_path / "source", images, rows, small_source / "text-encoder")
    image = tmp_path / "source" / "images" / "3.png"
    os.utime(image, (1, 1))
    keys = Project(project.root).row_keys("image").keys  # from here on it is remembered
    image.write_bytes(images["3.png"][:-1] + b"?")
    os.utime(image, (1, 1))
    for rehash, same in ((False, True), (True, False)):
        again = Project(project.root)
        ask(again, rehash=rehash)
        assert np.array_equal(again.row_keys("image").keys[3], keys[3]) == same
        assert np.array_equal(np.delete(again.row_keys("image").keys, 3, 0), np.delete(keys, 3, 0))


def test_tar_and_zip_files_beside_a_table(tmp_path, small_source, both):
    """The same rows and embeddings as from a folder, and nothing is encoded again when the images are packed."""
    whole = both[1]
    folder = Path(whole.sources.locate("0000.jpg").file).parent
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(whole.config.path(whole.config.data.source), source / "table.csv")
    files = sorted(folder.iterdir())
    for number in range(2):
        with tarfile.open(source / f"images-{number}.tar", "w") as archive:
            for file in files[number:20:2]:
                archive.add(file, file.name)
    with zipfile.ZipFile(source / "rest.zip", "w") as archive:
        for file in files[20:]:
            archive.write(file, file.name)
    project = tmp_path / "project"
    project.mkdir()
    made = init(project, str(source / "table.csv"))
    assert "images in 1 zip file and 2 tar files, read in place" in made.summary
    assert np.array_equal(Project(project).row_keys("image").keys, whole.row_keys("image").keys)
    (source / "rest.zip").unlink()
    (project / "mmfeat.toml").unlink()
    made = init(project, str(source / "table.csv"))
    assert "images in 2 tar files, read in place" in made.summary
    assert f'images    = "{source}/images-*.tar"' in (project / "mmfeat.toml").read_text(encoding="utf-8")


# -- decoding alone


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(orientation):
    shown = decode_image(rotated(orientation))
    assert shown.size == PICTURE.size
    assert np.abs(np.asarray(shown, int) - SMOOTH).mean() < 3  # JPEG noise; another orientation differs by 80


def test_cmyk_is_that_of_the_picture():
    assert np.abs(np.asarray(decode_image(CMYK), int) - SMOOTH).mean() < 8


def test_sixteen_bits_are_the_upper_eight():
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    decoded = np.asarray(decode_image(saved(Image.fromarray(values), "PNG")))
    assert np.array_equal(decoded[..., 0], values >> 8)


def test_a_large_image_and_a_broken_exif_print_nothing(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"  # one entry, then cut short
    for name, data in {"large.png": LARGE, "exif.jpg": saved(PICTURE, "JPEG", exif=exif)}.items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import sys; from mmfeat.encoders.image_decoding import decode_image\n"
        "for name in sys.argv[1:]: print(decode_image(open(name, 'rb').read()).size)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.png"), str(tmp_path / "exif.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[:2] == ["(9500, 9500)", "(48, 40)"]
    assert done.stderr == ""


def test_a_strip_that_would_fill_the_memory_is_no_image():
    from mmfeat.encoders.batches import UndecodableSample
    from mmfeat.encoders.preparation import ImagePreparation

    config = {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    preparation = ImagePreparation(config)
    assert preparation.prepare(Image.new("L", (1, 900))).shape == (3, 32, 32)
    with pytest.raises(UndecodableSample, match="a strip of 40000000 x 1 pixels"):
        preparation.prepare(saved(Image.new("L", (40_000_000, 1)), "PNG"))
