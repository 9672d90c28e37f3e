"""Thumbnails of a project: made once, upright, verified, made again where they are damaged."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from helpers.edits import edited
from helpers.projects import copy_project
from helpers.stores import flip
from PIL import Image

from mmfeat.common.files import HOST
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.decoding import USUAL
from mmfeat.extraction import thumbnail_making as making
from mmfeat.extraction.thumbnail_making import thumbnail_of
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.project.thumbnails import picture_statistics, thumbnails
from mmfeat.store.references import forget_references, new_references
from mmfeat.store.thumbnail_store import THUMBNAILS_KEY, ThumbnailStore
from mmfeat.workflows.store import find_unreferenced, remove_unreferenced, verify_store


def rows_of(project: Project) -> np.ndarray:
    return np.arange(project.manifest.n_samples)


def files_of(project: Project) -> list:
    return sorted((project.store.path / "thumbnails").glob("part-*.h5"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, session_project):
    project = Project(copy_project(session_project, tmp_path_factory.mktemp("thumbnails") / "project"))
    thumbnails(project, rows_of(project))
    return project


def picture(size: tuple[int, int] = (600, 300), **save) -> bytes:
    image = Image.new("RGB", size, "navy")
    image.paste("white", (0, 0, size[0] // 2, size[1] // 2))
    file = io.BytesIO()
    image.save(file, save.pop("format", "JPEG"), **save)
    return file.getvalue()


def test_thumbnails_are_small_jpegs_without_metadata(made):
    found = thumbnails(made, rows_of(made)[::-1])
    assert None not in found
    for data in found:
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG"
        assert max(image.size) <= 256
        assert not image.getexif()
    names = made.manifest.images[::-1]
    original = made.samples.image_reader()(len(names) - 1)
    assert thumbnail_of(original, USUAL).jpeg == found[0]


def test_they_are_made_once(made, monkeypatch):
    monkeypatch.setattr("mmfeat.extraction.thumbnail_making.decode_image", None)
    before = files_of(made)
    again = Project(made.root)
    assert thumbnails(again, rows_of(again)) == thumbnails(made, rows_of(made))
    assert picture_statistics(again, rows_of(again)).known.all()
    assert files_of(made) == before


def test_statistics_come_with_them(made):
    found = picture_statistics(made, rows_of(made))
    image = Image.open(io.BytesIO(made.samples.image_reader()(3)))
    assert (found.width[3], found.height[3]) == image.size
    assert found.n_bytes[3] == len(made.samples.image_reader()(3))
    small = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX), int)
    assert np.abs(small - found.miniature[3]).mean() < 3


def test_a_picture_is_upright_and_its_size_is_that_of_the_whole():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    one = thumbnail_of(picture((2400, 1200), exif=exif, comment=b"private"), USUAL)
    assert (one.width, one.height) == (1200, 2400)
    image = Image.open(io.BytesIO(one.jpeg))
    assert image.size == (128, 256)
    assert not image.getexif()
    assert b"private" not in one.jpeg
    assert one.miniature[:14, 18:].min() > 200  # the white corner has moved to the upper right
    assert one.miniature[:14, :14].mean() < 60


@pytest.mark.parametrize("color", [0, 128])
def test_a_picture_of_one_colour_has_no_spread(color):
    file = io.BytesIO()
    Image.new("L", (40, 30), color).save(file, "PNG")
    assert thumbnail_of(file.getvalue(), USUAL).spread < 1
    assert thumbnail_of(picture(), USUAL).spread > 50


def test_small_pictures_and_strips_keep_their_pixels():
    assert Image.open(io.BytesIO(thumbnail_of(picture((7, 5)), USUAL).jpeg)).size == (7, 5)
    assert Image.open(io.BytesIO(thumbnail_of(picture((5000, 2), format="PNG"), USUAL).jpeg)).size == (256, 1)


def test_what_is_no_picture_is_recorded_and_not_tried_again(project, monkeypatch):
    with pytest.raises(UndecodableSample):
        thumbnail_of(b"no picture", USUAL)
    whole = making.thumbnail_of
    bad = project.samples.image_reader()(2)
    calls = []

    def of(data, decoding):
        calls.append(data)
        if data == bad:
            raise UndecodableSample(ValueError("broken"))
        return whole(data, decoding)

    monkeypatch.setattr(making, "thumbnail_of", of)
    found = thumbnails(project, np.array([2, 3]))
    assert found[0] is None
    assert found[1]
    assert not picture_statistics(Project(project.root), np.array([2])).known.any()
    assert len(calls) == 2
    accepting = edited(project, "[data]\n", '[data]\ntruncated = "accept"\n')  # other rules: tried again
    assert thumbnails(accepting, np.array([2, 3]))[0] is None
    assert len(calls) == 3


def test_an_interruption_keeps_what_was_made(project, monkeypatch):
    whole, calls = making.thumbnail_of, []

    def of(data, decoding):
        calls.append(data)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return whole(data, decoding)

    monkeypatch.setattr(making, "thumbnail_of", of)
    with pytest.raises(KeyboardInterrupt):
        thumbnails(project, rows_of(project))
    found = thumbnails(Project(project.root), rows_of(project), make=False)
    n_made = sum(one is not None for one in found)
    assert 0 < n_made < len(found)
    monkeypatch.setattr(making, "thumbnail_of", whole)
    assert None not in thumbnails(Project(project.root), rows_of(project))


def test_a_damaged_file_is_made_again(project):
    first = thumbnails(project, rows_of(project))
    (file,) = files_of(project)
    flip(file, file.stat().st_size // 2)
    fresh = Project(project.root)
    assert thumbnails(fresh, rows_of(project), make=False) == [None] * len(first)
    (problem,) = verify_store(fresh).problems
    assert file.name in problem
    assert thumbnails(fresh, rows_of(project)) == first
    garbage = find_unreferenced(Project(project.root))
    assert [path for one in garbage.garbage for path in one.paths if path == file]
    remove_unreferenced(Project(project.root), garbage)
    assert len(files_of(project)) == 1
    assert verify_store(Project(project.root)).problems == []
    assert thumbnails(Project(project.root), rows_of(project), make=False) == first


def test_verify_and_gc_know_the_folder(project):
    thumbnails(project, rows_of(project))
    found = verify_store(project).found["thumbnails"]
    assert (found.n_files, found.n_rows, found.problems, found.uncommitted) == (1, 80, [], [])
    assert find_unreferenced(Project(project.root)).garbage == []
    forget_references(project.store.path, new_references(project.root))
    (garbage,) = [one for one in find_unreferenced(Project(project.root)).garbage if one.folder == "thumbnails"]
    assert garbage.why == "no project refers to these thumbnails"
    remove_unreferenced(project, find_unreferenced(Project(project.root)))
    assert not (project.store.path / "thumbnails").exists()
    assert None not in thumbnails(Project(project.root), rows_of(project))


def test_gc_keeps_thumbnails_of_another_project(project):
    thumbnails(project, rows_of(project))
    other = new_references(project.root / "elsewhere")
    found = dataclasses.replace(find_unreferenced(Project(project.root)), own=other)
    assert THUMBNAILS_KEY in find_unreferenced(Project(project.root)).own.encoders
    assert remove_unreferenced(project, found) == 0
    assert files_of(project)


def test_the_folder_of_a_killed_writer_is_swept(project):
    thumbnails(project, np.arange(5))
    left = project.store.path / "thumbnails" / f".tmp-{HOST}-999999999-00000000"
    left.write_bytes(b"half")
    thumbnails(project, np.arange(10))
    assert not left.exists()
    assert len(files_of(project)) == 2


def test_two_stores_see_one_another(project):
    one, two = ThumbnailStore(project.store.path), ThumbnailStore(project.store.path)
    keys = project.row_keys("image").keys
    assert two.lookup(keys).missing.all()
    thumbnails(project, np.arange(4))
    assert one.lookup(keys).good.sum() == two.lookup(keys).good.sum() == 4


def test_nothing_is_made_in_a_dry_project_or_without_pictures(project_folder, tmp_path):
    dry = Project(project_folder, dry=True)
    assert thumbnails(dry, np.arange(4)) == [None] * 4
    assert not (project_folder / "features" / "thumbnails").exists()
    (tmp_path / "captions.csv").write_text("id,caption,labels\n1,a dog,dog\n2,a cat,cat\n3,a dog,dog\n4,a cat,cat\n")
    init(tmp_path / "words", str(tmp_path / "captions.csv"))
    words = Project(tmp_path / "words")
    assert thumbnails(words, np.arange(4)) == [None] * 4
    assert not picture_statistics(words, np.arange(4)).known.any()
