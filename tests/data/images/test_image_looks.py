"""Images by names that look the same, of any encoding, by content, through links; messages about missing ones."""

from __future__ import annotations

import errno
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run_cli
from PIL import Image

from mmfeat.common.errors import DataError
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.images.missing_images import about_addresses, about_look_alikes, look_alikes
from mmfeat.data.row_keys import DigestMemory, image_keys
from mmfeat.project.initialisation import init

NFC, NFD = "é.jpg", unicodedata.normalize("NFD", "é.jpg")
PIXEL = b"\xff\xd8\xff\xe0 a JPEG begins like this, padded to some length"


def folder(root: Path, *paths: str, data: bytes = b"") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data or path.encode("utf-8", "surrogateescape"))
    return root


def zipped(file: Path, *names: str | bytes) -> Path:
    """A zip file; names that are bytes stand there as they are, without the flag for UTF-8."""
    with zipfile.ZipFile(file, "w") as archive:
        for n, name in enumerate(names):
            info = _Raw(name) if isinstance(name, bytes) else zipfile.ZipInfo(name)
            archive.writestr(info, f"{n}")
    return file


class _Raw(zipfile.ZipInfo):
    def __init__(self, name: bytes) -> None:
        super().__init__(name.decode("latin-1"))
        self._name = name

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self._name, self.flag_bits & ~0x800


@pytest.mark.parametrize(
    ("there", "name"), [(NFC, NFD), (NFD, NFC), ("a b.jpg", "a%20b.jpg"), ("a%20b.jpg", "a b.jpg")]
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("below", ["", "cats/"])
def test_names_that_look_the_same_are_found(tmp_path, there, name, kind, below):
    if kind == "folder":
        place = folder(tmp_path / "p", below + there)
    else:
        place = zipped(tmp_path / "p.zip", below + there)
    found = ImageSources([place])
    assert found.locate(name) is not None
    assert found.locate(below + name) == found.locate(name) == found.locate(f"p/{below}{name}")
    assert found.locate(name.removesuffix(".jpg")) == found.locate(name)
    assert found.locate("e.jpg") is found.locate("a%20c.jpg") is found.locate("%2e%2e/e.jpg") is None


def test_the_exact_name_goes_first_and_two_that_look_the_same_are_said(tmp_path):
    place = folder(tmp_path / "p", NFC, NFD, "a b.jpg", "a%20b.jpg")
    found = ImageSources([place])
    for name in (NFC, NFD, "a b.jpg", "a%20b.jpg"):
        assert Path(found.locate(name).file).name == name
    with pytest.raises(DataError, match="exists 2 times"):
        found.locate("%C3%A9.jpg")
    with pytest.raises(DataError, match="exists 2 times"):
        found.locate("a\u00a0b.jpg")


def test_a_looser_name_goes_behind_one_that_looks_the_same(tmp_path):
    place = folder(tmp_path / "p", NFD, f"cats/{NFC}")
    assert Path(ImageSources([place]).locate(f"cats/{NFD}").file) == place / "cats" / NFC


def test_percent_signs_that_mean_nothing_stay(tmp_path):
    found = ImageSources([folder(tmp_path / "p", "100%.jpg", "caf%E9.jpg")])
    assert found.locate("100%.jpg")
    assert found.locate("caf%E8.jpg") is None


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "cp437", "cp949"])
@pytest.mark.parametrize("name", ["café/été.jpg", "고양이.jpg"])
def test_names_of_zip_files_without_the_flag(tmp_path, encoding, name):
    try:
        raw = name.encode(encoding)
    except UnicodeEncodeError:
        pytest.skip("not a name in this encoding")
    found = ImageSources([zipped(tmp_path / "p.zip", raw, "other.jpg", b"plain.jpg")])
    at = found.locate(name)
    assert found.read(at) == b"0"
    assert found.locate(unicodedata.normalize("NFD", name)) == at
    assert found.read(found.locate("other.jpg")) == b"1"
    assert found.locate("ete.jpg") is None


def test_a_name_of_a_zip_file_that_0_1_0_found_is_found(tmp_path):
    raw = "é.jpg".encode()
    found = ImageSources([zipped(tmp_path / "p.zip", raw)])
    assert found.locate(raw.decode("cp437")) == found.locate("é.jpg")
    assert found.names() == ["é.jpg"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_names_in_other_encodings_outside_of_zip_files(tmp_path, kind):
    odd = os.fsdecode("été.jpg".encode("cp1252"))
    place = folder(tmp_path / "p", odd)
    if kind == "tar":
        with tarfile.open(tmp_path / "p.tar", "w") as archive:
            archive.add(place / odd, odd)
        place = tmp_path / "p.tar"
    assert ImageSources([place]).locate("été.jpg") is not None


def test_linked_folders_are_followed_and_cycles_end(tmp_path):
    place = folder(tmp_path / "p", "a/1.jpg", "b/2.jpg")
    folder(tmp_path / "elsewhere", "3.jpg", "deep/4.jpg")
    (place / "out").symlink_to(tmp_path / "elsewhere")
    (place / "again").symlink_to(place / "a")
    (place / "a" / "up").symlink_to(place)
    (place / "a" / "b").symlink_to(place / "b")
    (place / "b" / "a").symlink_to(place / "a")
    (place / "self").symlink_to(place / "self")
    (tmp_path / "elsewhere" / "back").symlink_to(place)
    found = ImageSources([place])
    assert found.locate("out/3.jpg") == found.locate("3.jpg") is not None
    assert found.locate("out/deep/4.jpg") is not None
    assert found.locate("again/1.jpg") == found.locate("a/1.jpg") == found.locate("1.jpg")  # one image, however named
    assert found.locate("a/b/2.jpg") == found.locate("2.jpg")
    assert len(found.names()) < 50


def test_what_links_lead_to_makes_no_name_ambiguous_that_was_not(tmp_path):
    place = folder(tmp_path / "p", "a/1.jpg")
    folder(tmp_path / "elsewhere", "1.jpg")
    (place / "out").symlink_to(tmp_path / "elsewhere")
    found = ImageSources([place])
    assert Path(found.locate("1.jpg").file) == place / "a/1.jpg"
    assert Path(found.locate("out/1.jpg").file) == place / "out/1.jpg"


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "avif", "jp2", "ppm", "tga", "mpo", "apng", "heic", "JFIF"])
def test_further_kinds_are_images_and_make_no_name_ambiguous(tmp_path, suffix):
    found = ImageSources([folder(tmp_path / "p", f"1.{suffix}", f"2.{suffix}", "2.jpg")])
    assert found.locate("1") == found.locate(f"1.{suffix}") is not None
    assert Path(found.locate("2").file).name == "2.jpg"


@pytest.mark.parametrize("name", ["photo.dat", "photo", "sub/photo"])
def test_a_file_that_is_named_exactly_is_told_by_its_content(tmp_path, name):
    place = folder(tmp_path / "p", name, data=PIXEL)
    folder(place, "notes.dat", data=b"no image at all")
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as archive:
        archive.writestr(f"z/{name}", PIXEL)
        archive.writestr("z/notes.dat", "no image at all")
    found = ImageSources([place, tmp_path / "q.zip"])
    assert found.read(found.locate(name)) == found.read(found.locate(f"z/{name}")) == PIXEL
    assert found.locate("notes.dat") is found.locate("z/notes.dat") is found.locate("../p/photo") is None
    assert found.locate("sub") is None


def test_heic_without_a_decoder_says_what_to_install_and_is_not_recorded(monkeypatch):
    from mmfeat.encoders.batches import UnreadSample
    from mmfeat.encoders.image_decoding import decode_image

    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(UnreadSample, match="pillow-heif"):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(100))


@pytest.mark.parametrize("suffix", ["avif", "jp2", "ppm", "tga", "mpo", "jpg", "png", "gif", "webp", "bmp", "tif"])
def test_kinds_that_pillow_writes_are_told_by_their_beginning(tmp_path, suffix):
    from mmfeat.data.images.image_kinds import HEAD, begins_as_image

    try:
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"1.{suffix}")
    except (KeyError, OSError) as error:
        pytest.skip(f"Pillow does not write it: {error}")
    told = begins_as_image((tmp_path / f"1.{suffix}").read_bytes()[:HEAD])
    assert told is (suffix != "tga")  # which begins like nothing


def unlistable(monkeypatch, *folders: Path) -> None:
    scandir = os.scandir

    def refuse(path):
        if Path(path) in folders:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_an_error_where_a_row_is_missing(tmp_path, monkeypatch):
    place = folder(tmp_path / "p", "1.jpg", "closed/2.jpg")
    unlistable(monkeypatch, place / "closed")
    found = ImageSources([place])
    assert found.locate("1.jpg")
    assert not found.holds("2.jpg")
    with pytest.raises(DataError, match=r"closed: cannot be listed \(Permission denied\), and image '2.jpg'"):
        found.locate("2.jpg")
    unlistable(monkeypatch, place)
    with pytest.raises(DataError, match=r"p: cannot be listed \(Permission denied\)"):
        ImageSources([place]).locate("1.jpg")


def test_a_memory_of_before_does_not_hide_what_is_found_now(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "p.zip", NFD.encode())
    os.utime(archive, (1, 1))
    names = np.array([NFC], dtype=object)
    file = tmp_path / "digests.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("mmfeat.data.row_keys._FORMAT", "3")
        patch.setattr(ImageSources, "locate", lambda self, name: None)
        assert not image_keys(names, ImageSources([archive]), DigestMemory(file)).present.any()
    assert image_keys(names, ImageSources([archive]), DigestMemory(file)).present.all()


def test_what_looks_alike():
    there = ["a/IMG_1.jpg", "IMG_10.jpg", "r1.png", "photo-of-a-dog.jpg", NFD]
    found = look_alikes(["IMG 1.jpg", "r4.png", "photo-of-the-dog.png", "IMG_100.jpg", NFC], there)
    assert found == {"IMG 1.jpg": "a/IMG_1.jpg", "photo-of-the-dog.png": "photo-of-a-dog.jpg", NFC: NFD}
    assert about_look_alikes({"IMG 1.jpg": "IMG_1.jpg"}) == "'IMG 1.jpg' is not there; 'IMG_1.jpg' is"
    assert about_look_alikes({NFC: NFD}) == r"'\xe9.jpg' is not there; 'e\u0301.jpg' is"
    assert look_alikes(["1_2.jpg"], ["12.jpg"]) == {}


def table(path: Path, images: list[str], captions: list[str] | None = None) -> Path:
    captions = captions or [""] * len(images)
    rows = (
        f"{i},{image},{caption},{'ab'[i % 2]}\n"
        for i, (image, caption) in enumerate(zip(images, captions, strict=True))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id,image,caption,labels\n" + "".join(rows), encoding="utf-8")
    return path


def test_init_says_what_looks_like_an_image_that_is_missing(tmp_path):
    folder(tmp_path, "IMG_1.jpg", "2.jpg")
    made = init(tmp_path, str(table(tmp_path / "t.csv", ["IMG 1.jpg", "2.jpg"])))
    assert "'IMG 1.jpg' is not there; 'IMG_1.jpg' is" in made.summary
    assert "image of '0': no such image; 'IMG_1.jpg' exists" in (tmp_path / "init.log").read_text()
    with pytest.raises(DataError, match=r"'IMG 1.jpg' is not there; 'IMG_1.jpg' is"):
        init(tmp_path / "new", str(table(tmp_path / "u" / "u.csv", ["IMG 1.jpg"])), images=(str(tmp_path),))


@pytest.mark.parametrize("captions", [None, ["", " "]])
def test_addresses_without_captions_are_an_error(tmp_path, captions):
    file = table(tmp_path / "t.csv", ["https://example.com/1.jpg", "data:image/png;base64:AAAA"], captions)
    with pytest.raises(
        DataError, match=r"1 row names a URL, like 'https.*1 row holds its image as text.*Download them first"
    ):
        init(tmp_path, str(file))


def test_images_without_captions_that_are_nowhere_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none of 2 names like '1.jpg' found"):
        init(tmp_path, str(table(tmp_path / "t.csv", ["1.jpg", "2.jpg"])))
    assert not (tmp_path / "mmfeat.toml").exists()


def test_addresses_of_images_that_are_there_are_found_by_their_ends(tmp_path):
    folder(tmp_path, "1.jpg", "2.jpg")
    file = table(tmp_path / "t.csv", ["https://example.com/1.jpg", "https://example.com/2.jpg"])
    assert init(tmp_path, str(file)).warnings == []


def test_captions_alone_are_a_warning_at_the_end(tmp_path):
    folder(tmp_path, "1.cr2", "2.cr2")
    table(tmp_path / "t.csv", ["1.jpg", "2.jpg"], ["one", "two"])
    done = run_cli("init", "t.csv", cwd=tmp_path)
    assert done.stderr.splitlines()[-1].startswith("Warning: no image file in")
    assert "'1.cr2', '2.cr2'" in done.stderr
    assert "only captions are used, without the images of 2 rows" in done.stderr
    table(tmp_path / "u.csv", ["https://e.org/1.jpg"] * 2, ["one", "two"])
    (tmp_path / "p").mkdir()
    done = run_cli("init", "../u.csv", cwd=tmp_path / "p")
    assert "Warning: 2 rows name URLs, like 'https://e.org/1.jpg'" in done.stderr


def test_about_addresses():
    assert about_addresses(["1.jpg", "c:/1.jpg", "a:b.jpg"]) == ""
    assert about_addresses(["data:image/png;base64,AA"] * 2).startswith(
        "2 rows hold their images as text (a data: URI)"
    )


def test_a_folder_of_images_without_suffix_is_not_empty(tmp_path):
    folder(tmp_path / "p", "one", "two", data=PIXEL)
    file = table(tmp_path / "t.csv", ["one", "two"])
    assert init(tmp_path / "q", str(file), images=(str(tmp_path / "p"),)).manifest.n_samples == 2
    folder(tmp_path / "r", "notes", data=b"nothing")
    with pytest.raises(DataError, match=r"no image in .*r \(looked for"):
        init(tmp_path / "s", str(file), images=(str(tmp_path / "p"), str(tmp_path / "r")))
