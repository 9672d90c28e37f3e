"""The memory of digests: never trusted where a file may have changed behind its stamp."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from helpers.images import MAKE, tar_of

from mmfeat.common.files import digest_bytes
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.images.kept_bytes import KeptBytes
from mmfeat.data.row_keys import DigestMemory, image_keys

NAMES = np.array(["1.jpg", "2.jpg", "", "none.jpg"], dtype=object)
CONTENT = {"1.jpg": b"one", "2.jpg": b"two"}


@pytest.fixture
def reads(monkeypatch) -> list:
    """Every location that is read from here on."""
    found = []
    original = ImageSources.read
    monkeypatch.setattr(ImageSources, "read", lambda self, location: found.append(location) or original(self, location))
    return found


def settle(path, seconds: float = 1.0):
    os.utime(path, (seconds, seconds))
    return path


def source_of(tmp_path, kind: str):
    """A folder or an archive that has long settled."""
    if kind in MAKE:
        return settle(MAKE[kind](tmp_path / f"a.{kind}", CONTENT))
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
        settle(folder / name)
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_what_is_settled_is_read_once(tmp_path, kind, reads):
    source, memory = source_of(tmp_path, kind), DigestMemory(tmp_path / "memory")
    first = image_keys(NAMES, ImageSources([source]), memory)
    again = image_keys(NAMES, ImageSources([source]), memory)
    assert len(reads) == 2
    assert np.array_equal(first.keys, again.keys)
    assert first.present.tolist() == again.present.tolist() == [True, True, False, False]
    assert first.reasons == again.reasons == {3: "no such image"}
    memory.forget()
    assert np.array_equal(image_keys(NAMES, ImageSources([source]), memory).keys, first.keys)
    assert len(reads) == 4


def test_bytes_are_kept_up_to_a_limit_and_given_once(tmp_path):
    sources, kept = ImageSources([source_of(tmp_path, "folder")]), KeptBytes(limit=5)
    found = image_keys(NAMES, sources, kept=kept)
    given = {row: data for row in range(len(NAMES)) if (data := kept.take(row)) is not None}
    assert len(given) == 1  # both have 3 bytes
    assert all(digest_bytes(data) == found.keys[row].tobytes().hex() for row, data in given.items())
    assert kept.take(*given) is None
    everything = KeptBytes()
    image_keys(NAMES, sources, kept=everything)
    everything.clear()
    assert [everything.take(row) for row in range(len(NAMES))] == [None] * len(NAMES)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_in_a_known_state_are_not_even_listed(tmp_path, kind, monkeypatch):
    source, memory = source_of(tmp_path, kind), DigestMemory(tmp_path / "memory")
    first = image_keys(NAMES, ImageSources([source]), memory)
    with monkeypatch.context() as patch:
        patch.setattr(ImageSources, "_list", None)
        assert np.array_equal(image_keys(NAMES, ImageSources([source]), memory).keys, first.keys)
    # Other names, or an archive in another state, ask again.
    swapped = image_keys(NAMES[[1, 0]], ImageSources([source]), memory)
    assert np.array_equal(swapped.keys, first.keys[[1, 0]])
    MAKE[kind](source, {"1.jpg": b"eno", "2.jpg": b"two"})
    settle(source, 2.0)
    changed = image_keys(NAMES, ImageSources([source]), memory)
    assert (changed.keys == first.keys).all(1).tolist() == [False, True, True, True]


def test_a_grown_archive_is_read_only_where_nothing_is_remembered(tmp_path, reads):
    """Another archive beside: the rows of the first are remembered one by one."""
    memory = DigestMemory(tmp_path / "memory")
    source = source_of(tmp_path, "tar")
    image_keys(NAMES, ImageSources([source]), memory)
    more = settle(tar_of(tmp_path / "b.tar", {"3.jpg": b"three"}))
    keys = image_keys(np.array([*NAMES, "3.jpg"], dtype=object), ImageSources([source, more]), memory)
    assert [location.member for location in reads] == ["1.jpg", "2.jpg", "3.jpg"]
    assert keys.present.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("age", [0.0, 1.0, -3600.0])
def test_what_changed_just_now_or_in_the_future_is_never_remembered(tmp_path, kind, age, reads):
    """A clock that was set back leaves times in the future, which later changes may meet again."""
    source, memory = source_of(tmp_path, kind), DigestMemory(tmp_path / "memory")
    now = time.time() - age
    for path in [source] if source.is_file() else source.iterdir():
        settle(path, now)
    for _ in range(2):
        image_keys(NAMES, ImageSources([source]), memory)
    assert len(reads) == 4


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_what_is_racy_counts_from_before_the_reading(tmp_path, kind, monkeypatch):
    """However long the reading takes, a change within the clock tick of the first look leaves the stamp as it is."""
    source, memory = source_of(tmp_path, kind), DigestMemory(tmp_path / "memory")
    tick = time.time()
    paths = [source] if source.is_file() else list(source.iterdir())
    for path in paths:
        settle(path, tick)
    shift = 0
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + shift)
    original = ImageSources.read

    def slow(self, location):
        nonlocal shift
        shift += 10_000_000_000
        return original(self, location)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSources, "read", slow)
        before = image_keys(NAMES, ImageSources([source]), memory)
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"two", b"owt"))  # same size, and the inode stays
        settle(path, tick)
    if kind == "zip":  # its checksum must fit the new bytes
        MAKE[kind](source, {"1.jpg": b"one", "2.jpg": b"owt"})
        settle(source, tick)
    after = image_keys(NAMES, ImageSources([source]), memory)
    assert (before.keys == after.keys).all(1).tolist() == [True, False, True, True]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_is_replaced_between_stamp_and_reading_is_not_remembered(tmp_path, kind, monkeypatch):
    source, memory = source_of(tmp_path, kind), DigestMemory(tmp_path / "memory")
    file = source / "2.jpg" if source.is_dir() else source
    original = ImageSources.read

    def replaced(self, location):
        data = original(self, location)
        if data == b"two" and file.is_file():
            file.write_bytes(file.read_bytes().replace(b"two", b"owt"))
            settle(file, 2.0)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(ImageSources, "read", replaced)
        before = image_keys(NAMES, ImageSources([source]), memory)
    settle(file, 1.0)  # the new content under the stamp of the old
    after = image_keys(NAMES, ImageSources([source]), memory)
    assert (before.keys == after.keys).all(1).tolist() == [True, False, True, True]


def test_a_refused_read_is_tried_again(tmp_path, monkeypatch):
    source, memory = source_of(tmp_path, "zip"), DigestMemory(tmp_path / "memory")

    def refuse(self, location):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(ImageSources, "read", refuse)
        keys = image_keys(NAMES, ImageSources([source]), memory)
    assert keys.refused == {0: "Permission denied", 1: "Permission denied"}
    assert image_keys(NAMES, ImageSources([source]), memory).present.tolist() == [True, True, False, False]


def test_a_pipe_among_the_images_stops_nothing(tmp_path):
    source = source_of(tmp_path, "folder")
    os.mkfifo(source / "pipe.jpg")
    keys = image_keys(np.array(["1.jpg", "pipe.jpg"], dtype=object), ImageSources([source]))
    assert keys.present.tolist() == [True, False]
    assert "not a plain file" in keys.refused[1]
