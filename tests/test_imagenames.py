"""Images by their names: whole, with more or fewer folders, without extension; and what fits several."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.images.image_names import ImageNames, Location
from mmfeat.data.images.image_sources import ImageSources


def folder(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("train/a/1.jpg", "train/a/1.jpg"),
        ("a/1.jpg", "train/a/1.jpg"),
        ("b/1.jpg", "train/b/1.jpg"),
        ("2.png", "train/b/2.png"),
        ("2", "train/b/2.png"),
        ("b/2", "train/b/2.png"),
        ("photos/train/b/2", "train/b/2.png"),
        ("photos/top.jpg", "top.jpg"),
        ("/home/somebody/photos/train/b/2.png", "train/b/2.png"),
        ("C:\\data\\train\\a\\1.jpg", "train/a/1.jpg"),
        ("./top.jpg", "top.jpg"),
        ("v1.2", "v1.2.jpg"),
        ("c/1.jpg", None),
        ("train/2.png", None),
        ("2.jpg", None),
        ("../top.jpg", None),
        ("a/../top.jpg", None),
        ("", None),
    ],
)
def test_names_match_by_their_ends(tmp_path, name, path):
    root = folder(tmp_path / "photos", "train/a/1.jpg", "train/b/1.jpg", "train/b/2.png", "top.jpg", "v1.2.jpg")
    found = ImageSources([root]).locate(name)
    assert (found and Path(found.file)) == (path and root / path)


def test_the_whole_name_goes_before_its_end_and_that_before_the_stem(tmp_path):
    sources = ImageSources([folder(tmp_path, "1.jpg", "a/1.jpg", "a/1.jpg.png", "b/1.png")])
    assert Path(sources.locate("1.jpg").file) == tmp_path / "1.jpg"
    assert Path(sources.locate("a/1.jpg").file) == tmp_path / "a/1.jpg"
    assert Path(sources.locate("1.png").file) == tmp_path / "b/1.png"


@pytest.mark.parametrize(
    ("name", "n"), [("1.jpg", 2), ("1", 3), ("a/1", 2), ("x/1.jpg", 2)], ids=["end", "stem", "path", "loose"]
)
def test_what_fits_several_names_their_places(tmp_path, name, n):
    roots = [folder(tmp_path / "p", "a/1.jpg"), folder(tmp_path / "q", "a/1.png", "b/1.jpg")]
    if name == "x/1.jpg":
        roots = [folder(tmp_path / "r", "1.jpg"), folder(tmp_path / "s", "1.jpg")]
    with pytest.raises(DataError, match=rf"exists {n} times: {tmp_path}/.* and {tmp_path}/"):
        ImageSources(roots).locate(name)


def test_the_folders_that_are_named_tell_images_of_one_name_apart(tmp_path):
    folder(tmp_path, "train/1.jpg", "val/1.jpg")
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        archive.writestr("1.jpg", b"zipped")
    sources = ImageSources([tmp_path / "train", tmp_path / "val", tmp_path / "test.zip"])
    read = [sources.read(sources.locate(f"{name}/1.jpg")) for name in ("train", "val", "test")]
    assert read == [b"train/1.jpg", b"val/1.jpg", b"zipped"]
    with pytest.raises(DataError, match=r"3 times.*Name it with its folder"):
        sources.locate("1.jpg")


def test_one_image_is_not_taken_for_two_names_whose_folders_it_has_not(tmp_path):
    sources = ImageSources([folder(tmp_path / "pets", "1.jpg")])
    assert sources.locate("cats/1.jpg") == sources.locate("cats/1.jpg")
    with pytest.raises(DataError, match=r"images 'cats/1.jpg' and 'dogs/1.jpg' both fit .*pets/1.jpg"):
        sources.locate("dogs/1.jpg")


def test_what_is_empty_is_told(tmp_path):
    (tmp_path / "none").mkdir()
    assert ImageSources([folder(tmp_path / "some", "1.jpg"), tmp_path / "none"]).empty() == [tmp_path / "none"]


PART = st.sampled_from(["a", "b", "c.d"])
PATHS = st.lists(st.lists(PART, min_size=1, max_size=4).map("/".join), min_size=1, max_size=6, unique=True)


@given(PATHS, st.lists(PART, min_size=1, max_size=4).map("/".join))
def test_an_image_is_only_found_by_a_name_that_ends_as_it_does(paths, name):
    """Whatever is found has the name's end; a whole name always finds its own image."""
    names = ImageNames()
    for path in paths:
        names.add(f"{path}.jpg", Location(f"/r/{path}.jpg"))
    for path in paths:
        assert names.find(f"{path}.jpg").file == names.find(path).file == f"/r/{path}.jpg"
    try:
        found = names.find(name)
    except DataError:
        return
    if found is not None:
        path = found.file.removesuffix(".jpg")
        assert f"/{path}".endswith(f"/{name}") or f"/{name}".endswith("/" + path.removeprefix("/r/"))
