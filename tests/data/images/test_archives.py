"""Archives: what is read in place, what is refused, and damage that is never read as data."""

from __future__ import annotations

import os
import random
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.images import MAKE, tar_of, zip_of
from helpers.memory import peak_bytes

from mmfeat.common.errors import DataError
from mmfeat.data.images import archives
from mmfeat.data.images.image_sources import ImageSources, _beside
from mmfeat.data.row_keys import image_keys

SEVERAL = {f"d/{i}.jpg": random.Random(i).randbytes(40 * i + 1) for i in range(30)}


@pytest.mark.parametrize(
    "make",
    [
        lambda p: zip_of(p / "a.zip", SEVERAL),
        lambda p: zip_of(p / "a.zip", SEVERAL, zipfile.ZIP_DEFLATED),
        lambda p: zip_of(p / "a.zip", SEVERAL, zipfile.ZIP_BZIP2),
        lambda p: tar_of(p / "a.tar", SEVERAL),
        lambda p: tar_of(p / "a.tar", {f"./{'long/' * 40}{name}": data for name, data in SEVERAL.items()}),
    ],
)
def test_members_come_back_in_threads(tmp_path, make):
    sources = ImageSources([make(tmp_path)])
    names = [name.rpartition("/")[2] for name in SEVERAL] * 20
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: sources.read(sources.locate(name)), names))
    assert read == list(SEVERAL.values()) * 20


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg", "C:\\x.jpg", "C:/x.jpg"])
def test_a_member_that_leaves_the_archive_is_refused(tmp_path, kind, name):
    file = MAKE[kind](tmp_path / f"a.{kind}", {"1.jpg": b"one", name: b"x"})
    with pytest.raises(DataError, match="leaves the archive"):
        ImageSources([file]).locate("1.jpg")


def test_links_and_devices_are_no_images(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, str(tmp_path / "secret.jpg")
            file.addfile(info)
        file.addfile(tarfile.TarInfo("4.jpg"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        info = zipfile.ZipInfo("5.jpg")
        info.external_attr = 0o120777 << 16
        file.writestr(info, str(tmp_path / "secret.jpg"))
    sources = ImageSources([tmp_path / "a.tar", tmp_path / "b.zip"])
    assert [sources.locate(f"{i}.jpg") is not None for i in range(6)] == [False] * 4 + [True, False]


def test_a_member_that_was_put_in_again_counts_as_it_is_last(tmp_path):
    tar_of(tmp_path / "a.tar", {"1.jpg": b"old", "2.jpg": b"two"})
    sources = ImageSources([tar_of(tmp_path / "a.tar", {"1.jpg": b"new"}, "a")])
    assert sources.read(sources.locate("1.jpg")) == b"new"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.xz", "a.TAR.BZ2"])
def test_a_tar_without_random_access_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"compressed as a whole.*Unpack it, or make it again as \.tar"):
        ImageSources([tmp_path / name])


def test_a_sparse_member_is_refused(tmp_path):
    from tarfile import GNUTYPE_SPARSE

    file = tar_of(tmp_path / "a.tar", {"1.jpg": bytes(512)}, type=GNUTYPE_SPARSE)
    with pytest.raises(DataError, match="sparse"):
        ImageSources([file]).locate("1.jpg")


def test_archives_beside_the_source_are_found(tmp_path):
    tar_of(tmp_path / "b.tar", {"1.jpg": b"one"})
    zip_of(tmp_path / "a.zip", {"2.jpg": b"two"})
    (tmp_path / "images").mkdir()
    assert [path.name for path in _beside(tmp_path)] == ["a.zip", "b.tar"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_named_twice_is_one(tmp_path, kind):
    MAKE[kind](tmp_path / f"a.{kind}", {"1.jpg": b"one"})
    sources = ImageSources([tmp_path / f"*.{kind}", tmp_path / f"a.{kind}"])
    assert sources.read(sources.locate("1.jpg")) == b"one"


def test_one_path_in_two_archives_is_an_error_for_who_asks(tmp_path):
    for kind in MAKE:
        MAKE[kind](tmp_path / f"a.{kind}", {"d/1.jpg": kind.encode(), f"d/{kind}.jpg": b"x"})
    sources = ImageSources([tmp_path / "a.*"])
    assert sources.locate("d/zip.jpg")
    with pytest.raises(DataError, match=r"2 times.*Leave one of them out"):
        sources.locate("d/1.jpg")


def test_a_name_in_three_places_is_an_error_for_who_asks(tmp_path):
    """Whether the name is a path of each, or only ends each."""
    for kind in "abc":
        (tmp_path / kind / "d").mkdir(parents=True)
        for name in ("1.jpg", f"{kind}.jpg", "d/2.jpg"):
            (tmp_path / kind / name).write_bytes(kind.encode())
    sources = ImageSources([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    assert sources.read(sources.locate("c.jpg")) == b"c"
    for name in ("1.jpg", "2.jpg", "d/2.jpg"):
        with pytest.raises(DataError, match="exists 3 times"):
            sources.locate(name)


def test_a_folder_within_another_has_each_image_once(tmp_path):
    (tmp_path / "a" / "d").mkdir(parents=True)
    (tmp_path / "a" / "d" / "1.jpg").write_bytes(b"one")
    sources = ImageSources([tmp_path / "a", tmp_path / "a" / "d"])
    assert sources.locate("1.jpg") == sources.locate("d/1.jpg")


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_odd_names_that_do_not_leave_are_found(tmp_path, kind):
    members = {"d\\1.jpg": b"one", "x:y.jpg": b"two", "d/..3.jpg": b"three"}
    source = tmp_path / f"a.{kind}"
    if kind == "folder":
        (source / "d").mkdir(parents=True)
        for name, data in members.items():
            (source / name).write_bytes(data)
    else:
        MAKE[kind](source, members)
    sources = ImageSources([source])
    names = {"d\\1.jpg": b"one", "d/1.jpg": b"one", "1.jpg": b"one", "x:y.jpg": b"two", "..3.jpg": b"three"}
    assert {name: sources.read(sources.locate(name)) for name in names} == names


# -- too large


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 2**20)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: zip_of(p / "a.zip", {"1.jpg": bytes(2**21), "2.jpg": b"two"}, zipfile.ZIP_DEFLATED),
        lambda p: tar_of(p / "a.tar", {"1.jpg": bytes(2**21), "2.jpg": b"two"}),
        lambda p: p,
    ],
)
def test_what_is_larger_than_an_image_is_refused_with_its_reason(tmp_path, small_limit, make):
    if make(tmp_path) == tmp_path:
        (tmp_path / "1.jpg").write_bytes(bytes(2**21))
        (tmp_path / "2.jpg").write_bytes(b"two")
    keys = image_keys(np.array(["1.jpg", "2.jpg"], dtype=object), ImageSources([make(tmp_path)]))
    assert keys.present.tolist() == [False, True]
    assert "2 MiB, and an image has at most 1" in keys.refused[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_that_lies_about_its_size_never_unpacks_to_more(tmp_path, method):

    bomb = 64 * 2**20
    data = bytearray(zip_of(tmp_path / "a.zip", {"1.jpg": bytes(bomb)}, method).read_bytes())
    at = 0
    while (at := data.find(bomb.to_bytes(4, "little"), at)) >= 0:
        data[at : at + 4] = (10).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    sources = ImageSources([tmp_path / "a.zip"])

    def read() -> None:
        with pytest.raises(DataError, match="size or checksum"):
            sources.read(sources.locate("1.jpg"))

    assert peak_bytes(read) < 2**24


@pytest.mark.parametrize(("bit", "says"), [(1, "encrypted"), (0, "method 99")])
def test_a_member_that_cannot_be_unpacked_says_why(tmp_path, bit, says):
    data = bytearray(zip_of(tmp_path / "a.zip", {"1.jpg": b"x"}).read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 8] |= bit
    data[entry + 10] = data[entry + 10] if bit else 99
    (tmp_path / "a.zip").write_bytes(data)
    sources = ImageSources([tmp_path / "a.zip"])
    with pytest.raises(DataError, match=says):
        sources.read(sources.locate("1.jpg"))


# -- damage


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_is_cut_short_anywhere_is_one_line(tmp_path, kind):
    whole = MAKE[kind](tmp_path / f"a.{kind}", SEVERAL).read_bytes()
    end = whole.rstrip(b"\0")  # a tar file's end mark is two blocks of zeros, and more that pad it
    cuts = [0, 1, 511, 512, 513, *random.Random(0).sample(range(len(end)), 60)]
    for cut in [c for c in cuts if c < len(end)]:
        (tmp_path / f"a.{kind}").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=f"not a {kind} file that can be read") as error:
            ImageSources([tmp_path / f"a.{kind}"]).locate("1.jpg")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_flipped_byte_is_an_error_or_changes_what_is_read_but_is_no_traceback(tmp_path, kind):
    whole = MAKE[kind](tmp_path / f"a.{kind}", SEVERAL).read_bytes()
    rng = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        (tmp_path / f"a.{kind}").write_bytes(data)
        sources = ImageSources([tmp_path / f"a.{kind}"])
        for name, expected in SEVERAL.items():
            try:
                location = sources.locate(name)
                read = sources.read(location) if location else expected
            except (DataError, OSError):
                continue
            assert kind == "tar" or read == expected  # a zip file has checksums


def test_an_archive_that_changes_after_it_was_listed_is_not_read_by_its_old_list(tmp_path):
    sources = ImageSources([tar_of(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})])
    location = sources.locate("2.jpg")
    os.replace(tar_of(tmp_path / "b.tar", {"0.jpg": b"zero", "1.jpg": b"one", "2.jpg": b"two"}), tmp_path / "a.tar")
    with pytest.raises(DataError, match="changed since it was listed"):
        sources.read(location)
