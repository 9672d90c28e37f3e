"""Copies of an image that differ in metadata only stand in one split; those that have two already keep them and are named."""

from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli
from helpers.images import saved
from PIL import Image, PngImagePlugin

from mmfeat.data.images.copies import copies_across_splits, groups_with_copies
from mmfeat.data.images.image_bytes import pixel_digest
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, RowKeys, image_keys
from mmfeat.project.initialisation import init

rng = np.random.default_rng(5)


def picture() -> np.ndarray:
    return rng.integers(0, 256, (20, 24, 3), np.uint8)


def exif(orientation: int = 6) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x0131] = orientation, "made by"
    return found


def texts() -> PngImagePlugin.PngInfo:
    found = PngImagePlugin.PngInfo()
    found.add_text("title", "words")
    return found


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def copies_of(kind: str) -> list[bytes]:
    """Files of one image that differ in metadata only."""
    pixels = picture()
    if kind == "PNG":
        one = saved(pixels, kind)
        return [
            one,
            saved(pixels, kind, exif=exif(), icc_profile=b"x" * 100),
            saved(pixels, kind, pnginfo=texts(), dpi=(9, 9)),
        ]
    if kind == "WEBP":
        return [saved(pixels, kind, lossless=True, **more) for more in ({}, {"exif": exif(), "xmp": b"<x/>"})]
    one = saved(pixels, kind, progressive=True)
    end = one.index(b"\xff\xd9")
    return [
        one,
        saved(pixels, kind, progressive=True, exif=exif(), icc_profile=b"x" * 70_000),
        saved(pixels, kind, progressive=True, comment=b"words", dpi=(7, 7)),
        one[:2]
        + jpeg_segment(0xED, b"Photoshop 3.0\0")
        + jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
        + one[2:],
        one + b"a film of the moment",
        one[:2] + one[2:end] + b"\xff\xd9" + one,  # another image behind the first
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_metadata_and_orientation_are_no_part_of_the_image_data(kind):
    digests = {pixel_digest(data) for data in copies_of(kind)}
    assert len(digests) == 1
    assert None not in digests
    assert len({pixel_digest(copies_of(kind)[0]) for _ in range(5)}) == 5


def test_what_decides_colours_is_part_of_the_image_data():
    pixels = picture()
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    data = cmyk.getvalue()
    at = data.index(b"Adobe")
    other = data[: at + 11] + bytes([2 - data[at + 11]]) + data[at + 12 :]
    assert pixel_digest(data) != pixel_digest(other)
    index = rng.integers(0, 3, (8, 8), np.uint8)
    images = []
    for transparency, colours in ((b"\xff\xff\xff", [9] * 9), (b"\xff\0\xff", [9] * 9), (b"\xff\xff\xff", [*range(9)])):
        image = Image.frombytes("P", (8, 8), index.tobytes())
        image.putpalette(colours)
        made = io.BytesIO()
        image.save(made, "PNG", transparency=transparency)
        images.append(pixel_digest(made.getvalue()))
    assert len(set(images)) == 3


def test_what_has_no_segments_or_is_damaged_counts_by_its_bytes():
    whole = saved(picture(), "JPEG")
    assert pixel_digest(saved(picture(), "BMP")) is None
    assert pixel_digest(whole[:30]) is None
    assert pixel_digest(whole[:200]) is None
    assert pixel_digest(b"") is None
    for _ in range(300):  # whatever the bytes are, no error
        data = bytearray(whole if rng.random() < 0.5 else saved(picture(), "PNG"))
        for at in rng.integers(0, 400, 5):
            data[at] = rng.integers(0, 256)
        pixel_digest(bytes(data))


def keys_of(files: list[int], images: list[int]) -> RowKeys:
    """Row keys of rows by numbers of their files and of their image data."""
    keys, facts = np.zeros((len(files), 32), np.uint8), np.zeros((len(files), 17), np.uint8)
    keys[:, 0], keys[:, 1], facts[:, 0], facts[:, 16] = 1, files, images, 1
    return RowKeys(keys=keys, present=np.ones(len(files), bool), facts=facts)


def test_copies_share_a_group_but_those_of_two_splits():
    keys = keys_of([0, 1, 2, 3, 4, 5, 6, 6], [0, 0, 1, 1, 1, 2, 3, 3])
    groups, known = groups_with_copies(keys)
    assert known is None
    assert groups.numbers.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    groups, known = groups_with_copies(keys, None, ["val", "", "val", "train", "", "", "", ""])
    numbers = groups.numbers
    assert numbers[0] == numbers[1]
    assert len(set(numbers[[2, 3, 4]])) == 3
    assert numbers[6] == numbers[7]
    assert known == ["val", "", "val", "train", "train", "", "", ""]  # a new copy of both stands in the first
    groups.refuse_two_splits([str(i) for i in range(8)], known)


def test_a_new_row_with_the_very_file_of_a_placed_one_stands_with_it():
    keys = keys_of([0, 1, 1], [0, 0, 0])
    groups, known = groups_with_copies(keys, None, ["train", "val", ""])
    assert known == ["train", "val", ""]
    assert groups.numbers[1] == groups.numbers[2] != groups.numbers[0]


def test_pairs_across_splits_are_found_once_each():
    keys = keys_of([0, 1, 2, 3, 4], [0, 0, 0, 1, 1])
    split = np.array(["train", "val", "val", "test", "test"], dtype=object)
    assert copies_across_splits(keys, split) == [(0, 1)]
    split = np.array(["train", "val", "test", "train", "train"], dtype=object)
    assert copies_across_splits(keys, split) == [(0, 1), (1, 2)]


N = 40


def source_of(folder: Path) -> Path:
    """A table of 40 images, each of which is there twice: as it is, and with other metadata."""
    (folder / "images").mkdir(parents=True)
    lines = ["id,image,labels"]
    for i in range(N):
        pixels = picture()
        kind = ("JPEG", "PNG")[i % 2]
        for name, more in ((f"{i}a", {}), (f"{i}b", {"exif": exif(1 + i % 8)})):
            (folder / "images" / f"{name}.{kind.lower()}").write_bytes(saved(pixels, kind, **more))
            lines.append(f"{name},{name}.{kind.lower()},{'xy'[i % 3 == 0]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "table.csv"


def test_init_keeps_copies_in_one_split_and_counts_them(tmp_path):
    source = source_of(tmp_path / "source")
    (tmp_path / "project").mkdir()
    result = init(tmp_path / "project", str(source), val=0.3)
    split = dict(zip(result.manifest.ids, result.manifest.split, strict=True))
    assert all(split[f"{i}a"] == split[f"{i}b"] for i in range(N))
    assert 0 < list(split.values()).count("val") < 2 * N
    assert f"0 missing, 0 exact copies, {N} copies with other metadata" in result.summary
    assert "in two splits" not in result.summary


def test_rows_that_have_two_splits_keep_them_and_are_named(tmp_path):
    source = source_of(tmp_path / "source")
    project = tmp_path / "project"
    project.mkdir()
    init(project, str(source), val=0.3)
    manifest = Manifest.load(project / "manifest.parquet")
    before = manifest.split.copy()
    before[:4] = "train", "val", "val", "val"  # as mmfeat 0.1.0 may have dealt them
    dataclasses.replace(manifest, split=before).save(project / "manifest.parquet")
    said = run_cli("init", cwd=project).stdout
    assert "1 image in two splits (listed in init.log)" in said
    assert "the same image data: image of '0a' (train) and image of '0b' (val)" in (project / "init.log").read_text()
    assert Manifest.load(project / "manifest.parquet").split.tolist() == before.tolist()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_memory_without_image_data_is_read_once_more(tmp_path, kind, monkeypatch):
    import os
    import zipfile

    source_of(tmp_path / "source")
    where = tmp_path / "source" / "images"
    names = np.array(sorted(path.name for path in where.iterdir()), dtype=object)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for name in names:
                archive.write(where / name, name)
        where = tmp_path / "images.zip"
    for path in (tmp_path / "images.zip", *(tmp_path / "source" / "images").iterdir()):
        if path.exists():
            os.utime(path, ns=(10**18, 10**18))
    memory, read = DigestMemory(tmp_path / "memory"), []
    original = ImageSources.read
    monkeypatch.setattr(ImageSources, "read", lambda *a: read.append(1) or original(*a))
    first = image_keys(names, ImageSources([where]), memory, facts=True)
    table = pq.read_table(tmp_path / "memory")
    old = {"format": b"3", "state": table.schema.metadata[b"state"]}
    pq.write_table(
        table.select(["place", "digest"]).replace_schema_metadata(old), tmp_path / "memory"
    )  # as mmfeat 0.1.0 wrote it
    read.clear()
    keys = image_keys(names, ImageSources([where]), memory)
    assert not read  # whoever needs keys alone reads nothing
    assert np.array_equal(keys.keys, first.keys)
    assert keys.lacks_facts.all()
    again = image_keys(names, ImageSources([where]), memory, facts=True)
    assert len(read) == len(names)
    read.clear()
    third = image_keys(names, ImageSources([where]), memory, facts=True)
    assert not read
    for found in (again, third):
        assert np.array_equal(found.pixels, first.pixels)
        assert np.array_equal(found.keys, first.keys)
        assert not found.lacks_facts.any()
        assert len(np.unique(found.pixels, axis=0)) == N
