"""Stores of mmfeat 0.1.0: only images whose pixels are others now, or that could not be read, are encoded again, and once."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli
from helpers.images import RAMP, chunk, png16, saved
from PIL import Image

from mmfeat.encoders import decoder_0_1 as decoder1
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.families.image_network import ImageEncoder
from mmfeat.encoders.preparation import ImagePreparation
from mmfeat.project.encoding import ExtractionOptions, extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.training.dry_run import plan_extract
from mmfeat.workflows.status import status

TOML = """\
schema = 1
[data]
source = {source}
{settings}
[split]
val = 0.25
[encoder.image]
model = "test_efficientnet"
pretrained = "random"
size = 32
tokens = {tokens}
[fuse]
head = "linear"
inputs = ["image"]
"""
rng = np.random.default_rng(3)
WHOLE = saved(rng.integers(0, 256, (64, 64, 3), np.uint8), "JPEG", quality=95)
SMALL = saved(rng.integers(0, 256, (20, 20, 3), np.uint8), "PNG")
GREY = (RAMP * 65535).astype(np.uint16)
# Name to bytes; those that change with the decoder begin with "new", those that no decoder reads with "bad".
IMAGES = {
    **{f"plain{i}.jpg": saved(rng.integers(0, 256, (40, 40, 3), np.uint8), "JPEG") for i in range(6)},
    "deep.png": saved(GREY, "PNG"),
    "deep-colours.png": png16(np.stack([GREY, GREY, GREY // 2], -1)),
    "old.tif": saved(rng.integers(0, 256, (40, 40, 3), np.uint8), "TIFF"),
    "new-float.tif": saved(RAMP, "TIFF"),
    "new-12-bit.png": saved(GREY >> 4, "PNG"),
    "new-colours.png": png16(np.stack([GREY >> 4, GREY >> 4, GREY >> 5], -1)),
    "new-text.png": SMALL[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))) + SMALL[33:],
    "bad-cut.jpg": WHOLE[:-3],
    "bad.jpg": b"no image",
    "flat.png": saved(np.full((40, 40, 3), 7, np.uint8), "PNG"),
}
NEW = {name for name in IMAGES if name.startswith("new")}


def write(folder: Path, settings: str = "", tokens: int = 0) -> None:
    text = TOML.format(source=json.dumps(str(folder / "table.csv")), settings=settings, tokens=tokens)
    (folder / "mmfeat.toml").write_text(text, encoding="utf-8")


def make(folder: Path, tokens: int = 0) -> Path:
    (folder / "images").mkdir(parents=True)
    for name, data in IMAGES.items():
        (folder / "images" / name).write_bytes(data)
    lines = [f"{name},{name},{'xy'[i % 2]}" for i, name in enumerate(IMAGES)]
    (folder / "table.csv").write_text("\n".join(["id,image,labels", *lines]) + "\n", encoding="utf-8")
    write(folder, tokens=tokens)
    init(folder)
    return folder


def old_decode(self, sample: bytes) -> Image.Image:
    from mmfeat.encoders.batches import UndecodableSample

    try:
        return decoder1._decoded_before(Image.open(io.BytesIO(sample)))
    except Exception as error:
        raise UndecodableSample(error) from None


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A project as mmfeat 0.1.0 left it."""
    folder = make(tmp_path / "project")
    encode_as_before(folder, monkeypatch)
    return folder


def encode_as_before(folder: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Decoding, "record", {"decoder": 1, "decoding": ""})
        patch.setattr(ImagePreparation, "decode", old_decode)
        patch.setattr(ImageEncoder, "is_flat", lambda self, prepared: False)
        extract(Project(folder))
    memory = folder / ".mmfeat" / "digests.parquet"
    if memory.exists():
        pq.write_table(pq.read_table(memory).select(["place", "digest"]), memory)


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The bytes of every image that is decoded to be encoded."""
    found, decode = [], ImagePreparation.decode
    monkeypatch.setattr(ImagePreparation, "decode", lambda self, sample: found.append(sample) or decode(self, sample))
    return found


def names(decoded: list[bytes]) -> set[str]:
    return {name for name, data in IMAGES.items() if data in decoded}


def embeddings(folder: Path) -> dict[str, bytes]:
    project = Project(folder)
    table = project.feature_table(["image"], np.zeros(0, np.int64))
    rows = np.flatnonzero(table.present["image"])
    return {str(project.manifest.ids[row]): table.embeddings["image"][row].tobytes() for row in rows}


def test_only_what_changed_is_encoded_again_and_once(old, decoded):
    before = embeddings(old)
    assert set(before) == set(IMAGES) - {"new-text.png", "bad-cut.jpg", "bad.jpg"}
    (result,) = extract(Project(old)).encoders
    assert names(decoded) == {*NEW, "bad-cut.jpg", "bad.jpg"}
    assert (result.encoded, result.cached, result.unreadable, result.repeated) == (4, len(IMAGES) - 6, 2, 0)
    after = embeddings(old)
    assert {name for name in after if after[name] != before.get(name)} == NEW
    decoded.clear()
    (result,) = extract(Project(old)).encoders
    assert not decoded
    assert (result.encoded, result.cached, result.unreadable) == (0, len(IMAGES) - 2, 2)


def test_it_ends_as_a_new_project(old, tmp_path):
    extract(Project(old))
    new = make(tmp_path / "new")
    extract(Project(new))
    found, wanted = embeddings(old), embeddings(new)
    assert found.keys() == wanted.keys()
    for name in wanted:  # what shares a batch may decide the last bits
        a, b = (np.frombuffer(some[name], np.float16).astype(np.float32) for some in (found, wanted))
        assert np.allclose(a, b, atol=2e-2), name


def test_nothing_is_read_twice_and_memory_may_be_lost(old, decoded, monkeypatch):
    compared = []
    compare = decoder1.has_other_pixels
    monkeypatch.setattr(decoder1, "has_other_pixels", lambda *a: compared.append(a[0]) or compare(*a))
    extract(Project(old))
    assert {name for name, data in IMAGES.items() if data in compared} == {
        "deep.png",
        "deep-colours.png",
        "old.tif",
        *NEW - {"new-text.png"},
    }
    compared.clear()
    extract(Project(old))
    assert not compared
    for file in (old / ".mmfeat").iterdir():
        file.unlink()
    decoded.clear()
    extract(Project(old))
    assert not decoded
    (old / ".mmfeat" / "pixels-2.parquet").write_bytes(b"damaged")
    extract(Project(old))
    assert not decoded


def test_status_and_a_dry_run_say_it_before(old):
    extract_plan = plan_extract(Project(old, dry=True))
    assert [plan.to_encode for plan in extract_plan] == [6]
    (one,) = status(Project(old)).encoders  # it decodes nothing, so that it knows only what could not be read
    assert (one.stale, one.unreadable) == (3, 0)
    assert "3 unreadable images to be tried again" in one.why
    extract(Project(old))
    (one,) = status(Project(old)).encoders
    assert (one.stale, one.missing, one.unreadable, one.cached) == (0, 0, 2, len(IMAGES) - 2)


def test_a_shard_leaves_the_others_rows(old):
    parts = [extract(Project(old), options=ExtractionOptions(shard=(k, 2))).encoders[0] for k in (1, 2)]
    assert sum(part.encoded for part in parts) == 4
    assert parts[0].left + parts[0].encoded + parts[0].cached + parts[0].unreadable == len(IMAGES)
    assert parts[1].left == 0
    assert parts[1].cached + parts[1].encoded + parts[1].unreadable == len(IMAGES)


def test_tokens_are_made_again_with_the_embeddings(tmp_path, monkeypatch):
    folder = make(tmp_path / "project", tokens=2)
    encode_as_before(folder, monkeypatch)

    def tokens() -> dict[str, bytes]:
        project = Project(folder)
        features, keys = project.store.encoder(project.identity("image").spec), project.row_keys("image").keys
        found = features.lookup_tokens(2, keys)
        values, _ = features.tokens(2, found)
        return {str(project.manifest.ids[row]): values[int(row)].tobytes() for row in np.flatnonzero(found.good)}

    before = tokens()
    extract(Project(folder))
    after = tokens()
    assert {name for name in after if after[name] != before.get(name)} == NEW


def test_settings_try_again_what_they_refused_and_nothing_else(tmp_path, decoded):
    folder = make(tmp_path / "project")
    extract(Project(folder))
    reasons = extract(Project(folder)).reasons["image"]
    assert '[data] truncated = "accept"' in reasons["bad-cut.jpg"]
    key = Project(folder).identity("image").spec.key
    decoded.clear()
    write(folder, 'truncated = "accept"')
    (result,) = extract(Project(folder)).encoders
    assert names(decoded) == {"bad-cut.jpg", "bad.jpg"}
    assert (result.encoded, result.unreadable) == (1, 1)
    assert Project(folder).identity("image").spec.key == key
    decoded.clear()
    extract(Project(folder))
    write(folder, 'truncated = "accept"\nmax_megapixels = 0.001')
    extract(Project(folder))  # what is encoded stays
    assert names(decoded) == {"bad.jpg"}
    assert "bad-cut.jpg" in embeddings(folder)


def test_flat_images_are_listed(tmp_path):
    folder = make(tmp_path / "project")
    extract(Project(folder))
    assert status(Project(folder)).flat == ["flat.png"]
    (folder / "images" / "more.png").write_bytes(saved(np.full((9, 9, 3), 200, np.uint8), "PNG"))
    with (folder / "table.csv").open("a", encoding="utf-8") as table:
        table.write("more.png,more.png,x\n")
    init(folder)
    extract(Project(folder))  # parts are merged
    assert "2 images of one colour, or nearly so: flat.png, more.png" in run_cli("status", cwd=folder).stdout
