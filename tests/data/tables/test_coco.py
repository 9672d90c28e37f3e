"""COCO's files: categories, captions, images without annotations, and what is wrong with a file."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mmfeat.common.errors import DataError
from mmfeat.data.tables.readers import read_source

CATEGORIES = [{"id": 3, "name": "traffic light"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
IMAGES = [{"id": 7, "file_name": "a.jpg", "width": 4}, {"id": 9, "file_name": "b.jpg"}, {"id": 8, "file_name": "c.jpg"}]
ANNOTATIONS = [(7, 2), (8, 3), (7, 3), (7, 2)]


def instances(file: Path, images=IMAGES, annotations=ANNOTATIONS, categories=CATEGORIES) -> Path:
    content = {"images": images, "categories": categories}
    if annotations is not None:
        content["annotations"] = [{"image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for i, c in annotations]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def captions(file: Path, pairs: list[tuple[int, str]]) -> None:
    file.write_text(json.dumps({"annotations": [{"image_id": i, "caption": c} for i, c in pairs]}))


@pytest.mark.parametrize("given", ["", "annotations", "annotations/instances_train.json"])
def test_a_folder_or_a_file(tmp_path, given):
    instances(tmp_path / "annotations" / "instances_train.json")
    captions(tmp_path / "annotations" / "captions_train.json", [(7, "one"), (8, "x"), (7, " "), (7, "two"), (5, "y")])
    source = read_source(tmp_path / given, {})
    assert source.kind == "COCO: instances_train.json"
    assert source.ids == ["7", "9", "8"]
    assert source.images == ["a.jpg", "b.jpg", "c.jpg"]
    assert source.captions == ["one\ntwo", "", "x"]
    assert source.classes == ("traffic light", "dog", "cat")
    assert source.encoded(source.classes).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert source.notes == ["captions_train.json: 1 caption of images that instances_train.json does not list"]
    assert source.settings["labels"] == ""


def test_a_file_of_another_name_and_without_captions(tmp_path):
    source = read_source(instances(tmp_path / "mine.json"), {"id": "file_name"})
    assert source.ids == ["a.jpg", "b.jpg", "c.jpg"]
    assert source.columns["caption"] == ""


@pytest.mark.parametrize("wanted", [("cat", "3"), ("2", "traffic light")])
def test_some_categories_by_name_or_id(tmp_path, wanted):
    source = read_source(instances(tmp_path / "c.json"), {"labels": wanted})
    assert source.classes == ("cat", "traffic light")
    assert source.encoded(source.classes).tolist() == [[1, 1], [0, 0], [0, 1]]
    assert source.settings["labels"] == list(wanted)
    assert read_source(tmp_path / "c.json", {"labels": "cat"}).encoded(("cat",)).tolist() == [[1], [0], [0]]
    with pytest.raises(DataError, match=r"no row has a label.*Use: --labels NAME"):
        read_source(tmp_path / "c.json", {"labels": "dog"})


def test_a_file_without_annotations_has_unlabelled_rows(tmp_path):
    instances(tmp_path / "instances_a.json")
    instances(tmp_path / "instances_b.json", [{"id": 1, "file_name": "d.jpg"}], None)
    source = read_source(tmp_path, {})
    assert source.labels == [["traffic light", "cat"], [], ["traffic light"], None]


def test_two_categories_of_one_name_are_told_apart_by_id(tmp_path):
    file = instances(tmp_path / "c.json", categories=[*CATEGORIES, {"id": 4, "name": "dog"}])
    with pytest.raises(
        DataError, match=r"categories 1 and 4 are all called 'dog'. Select one by its id. Use: --labels ID"
    ):
        read_source(file, {})
    assert read_source(file, {"labels": ("4", "cat")}).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": [(7, 2), (6, 2)]}, "annotation 2: there is no image 6"),
        ({"annotations": [(7, 5)]}, "annotation 1: there is no category 5"),
        ({"annotations": [([7], 1)]}, "annotation 1: its image_id or category_id is neither a number nor text"),
        ({"images": [*IMAGES, IMAGES[0]]}, "image 4: repeats the id 7"),
        ({"images": [{"file_name": "a.jpg"}]}, "image 1: has no id"),
        ({"images": [], "annotations": []}, "has no row"),
        ({"images": [1]}, "'images' is not a list of objects"),
        ({"images": None}, "no 'images' in it"),
        ({"categories": []}, "no categories in it"),
        ({"categories": [{"id": 1}]}, "category 1 lacks its id or its name"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, change, says):
    with pytest.raises(DataError) as error:
        read_source(instances(tmp_path / "instances_x.json", **change), {})
    assert says in str(error.value)
    assert "instances_x.json" in str(error.value)


def test_an_unknown_category_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"no category 'dgo'. Nearest: 'dog'. There are: 3 'traffic light', 1 'dog'"):
        read_source(instances(tmp_path / "c.json"), {"labels": "dgo"})
    with pytest.raises(DataError, match=r"category '1' is selected twice"):
        read_source(tmp_path / "c.json", {"labels": ("dog", "1")})


def test_one_id_in_two_files(tmp_path):
    instances(tmp_path / "instances_a.json")
    instances(tmp_path / "instances_b.json")
    with pytest.raises(DataError, match=r"repeated ids: '7' \(instances_a.json image 1 and instances_b.json image 1\)"):
        read_source(tmp_path, {})


@pytest.mark.parametrize("data", [b"", b'{"images": [', b"\xff\xfe"])
def test_damaged_json(tmp_path, data):
    (tmp_path / "c.json").write_bytes(data)
    with pytest.raises(DataError, match=r"c.json: not JSON that can be read"):
        read_source(tmp_path / "c.json", {})


def test_absent_cannot_be_unknown(tmp_path):
    with pytest.raises(DataError, match=r"requires explicit negatives"):
        read_source(instances(tmp_path / "c.json"), {}, absent="unknown")


def test_many_annotations_take_little_longer_than_their_json(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(20_000)]
    pairs = [(i * 7919 % 20_000, (1, 2, 3)[i % 3]) for i in range(200_000)]
    file = instances(tmp_path / "c.json", images, pairs)
    start = time.perf_counter()
    json.loads(file.read_bytes())
    parsed = time.perf_counter()
    source = read_source(file, {})
    source.encoded(source.classes)
    assert time.perf_counter() - parsed < 5 * (parsed - start) + 1
    assert sum(map(len, source.labels)) == len(set(pairs))
