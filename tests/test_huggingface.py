"""Parquet as Hugging Face writes it: names and labels are used, images inside are never read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmfeat.common.errors import DataError
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.tables.readers import read_rows, read_source
from mmfeat.data.tables.shards import about_files, parquet_files
from mmfeat.data.tables.table_forms import read_table
from mmfeat.project.initialisation import init

NAMES = ["cat", "traffic light", "dog"]
LABEL = {"names": NAMES, "_type": "ClassLabel"}
IMAGES = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write(path: Path, columns: dict, features: dict | None = None, **types: pa.DataType) -> Path:
    """A Parquet file with what Hugging Face writes into its schema."""
    data = pa.table({n: pa.array(values, types.get(n)) for n, values in columns.items()})
    if features is not None:
        data = data.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path)
    return path


def dataset(path: Path, start: int = 0, n: int = 6, paths: bool = True, **more: list) -> Path:
    rows = range(start, start + n)
    columns = {
        "image": [{"bytes": b"\x89PNG", "path": f"{i}.png" if paths else None} for i in rows],
        "caption": [f"caption {i}" for i in rows],
        "label": [i % 3 for i in rows],
        **more,
    }
    return write(path, columns, {"image": {"_type": "Image"}, "label": LABEL}, image=IMAGES)


def test_names_of_images_and_of_classes_are_used(tmp_path):
    source = read_source(dataset(tmp_path / "t.parquet"), {})
    assert source.columns == {
        "id": "image.path",
        "image": "image.path",
        "caption": "caption",
        "labels": "label",
        "group": "",
    }
    assert source.images == source.ids == [f"{i}.png" for i in range(6)]
    assert source.labels[:2] == [["cat"], ["traffic light"]]  # a name with a space is one name
    assert source.classes == ("cat", "dog", "traffic light")
    assert source.images_inside == "image"
    assert not any("not used" in hint for hint in source.hints)
    again = read_source(tmp_path / "t.parquet", source.settings)  # as mmfeat.toml names the columns
    assert (again.images, again.labels, again.columns) == (source.images, source.labels, source.columns)
    assert read_source(tmp_path / "t.parquet", {"image": "image"}).images == source.images


@pytest.mark.parametrize(
    "feature", [{"feature": LABEL, "_type": "Sequence"}, {"feature": LABEL, "_type": "List", "length": -1}, [LABEL]]
)
def test_lists_of_labels_have_names_too(tmp_path, feature):
    columns = {"id": ["a", "b", "c", "d"], "caption": ["x"] * 4, "labels": [[0, 1], [], None, [2, 2]]}
    source = read_source(write(tmp_path / "t.parquet", columns, {"labels": feature}), {})
    assert source.labels == [["cat", "traffic light"], [], None, ["dog"]]


def test_a_number_without_a_name_is_no_label_or_an_error(tmp_path):
    columns = {"id": ["a", "b", "c"], "caption": ["x"] * 3, "label": [0, -1, None]}
    source = read_source(write(tmp_path / "t.parquet", columns, {"label": LABEL}), {})
    assert source.labels == [["cat"], None, None]
    columns["label"] = [0, 3, 1]
    with pytest.raises(DataError, match=r"t.parquet row 2: column 'label' holds label 3, and the file names 3 classes"):
        read_source(write(tmp_path / "t.parquet", columns, {"label": LABEL}), {})


@pytest.mark.parametrize(
    "features",
    [
        {"objects": [{"category": LABEL, "area": {"_type": "Value"}}]},
        {"objects": {"feature": {"category": LABEL, "area": {"_type": "Value"}}, "_type": "Sequence"}},
        {"objects": {"feature": {"category": LABEL}, "_type": "List"}},
    ],
)
def test_lists_of_structs_are_columns_of_lists(tmp_path, features):
    objects = [[{"category": 0, "area": 1.5}, {"category": 1, "area": 2.0}], [], [{"category": 2, "area": 0.1}]]
    columns = {
        "id": ["a", "b", "c"],
        "sentences": [[{"raw": "one", "n": 1}, {"raw": "two", "n": 2}]] * 3,
        "objects": objects,
    }
    write(tmp_path / "t.parquet", columns, features)
    assert read_table(tmp_path / "t.parquet").header == [
        "id",
        "sentences",
        "sentences.raw",
        "sentences.n",
        "objects",
        "objects.category",
        "objects.area",
    ]
    source = read_source(tmp_path / "t.parquet", {"caption": "sentences.raw", "labels": "objects.category"})
    assert source.captions == ["one\ntwo"] * 3
    assert source.labels == [["cat", "traffic light"], [], ["dog"]]


def test_structs_of_lists_have_names_too(tmp_path):
    columns = {"id": ["a", "b"], "caption": ["x", "y"], "objects": [{"category": [0, 2]}, {"category": [1]}]}
    features = {"objects": {"feature": {"category": LABEL}, "_type": "Sequence"}}
    source = read_source(write(tmp_path / "t.parquet", columns, features), {"labels": "objects.category"})
    assert source.labels == [["cat", "dog"], ["traffic light"]]


def test_a_column_called_with_a_point_is_not_one_within_another(tmp_path):
    columns = {
        "image.path": ["own.jpg"],
        "image": [{"bytes": b"x", "path": "inner.jpg"}],
        "caption": ["c"],
        "label": ["l"],
    }
    table = read_table(write(tmp_path / "t.parquet", columns, None, image=IMAGES))
    assert table.header.count("image.path") == 1
    assert table.texts("image.path") == ["own.jpg"]


def test_a_column_of_structs_names_what_lies_in_it_and_never_asks_to_drop_it(tmp_path):
    dataset(tmp_path / "t.parquet", meta=[{"title": "t"}] * 6)
    with pytest.raises(DataError, match=r"column 'meta' holds a struct, and texts are needed. .*meta.title$"):
        read_source(tmp_path / "t.parquet", {"caption": "meta"})
    assert read_source(tmp_path / "t.parquet", {"caption": "meta.title"}).captions == ["t"] * 6


@pytest.mark.parametrize(
    "metadata",
    [b"", b"[", b"[]", b"[" * 100_000, b'{"info": 1}', b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'],
)
def test_metadata_that_says_nothing_is_nothing(tmp_path, metadata):
    data = pa.table({"id": ["a"], "caption": ["x"], "label": [1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(data, tmp_path / "t.parquet")
    assert read_source(tmp_path / "t.parquet", {}).labels == [["1"]]


def test_of_several_images_in_a_row_the_first_is_used(tmp_path):
    columns = {
        "images": [[{"bytes": b"", "path": "1.jpg"}, {"bytes": b"", "path": "2.jpg"}], []],
        "caption": ["a", "b"],
        "label": ["x", "y"],
    }
    write(tmp_path / "t.parquet", columns, None, images=pa.list_(IMAGES))
    source = read_source(tmp_path / "t.parquet", {"image": "images"})
    assert source.images == ["1.jpg", ""]
    assert "1 row of t.parquet with several images" in source.hints[0]


@pytest.mark.parametrize("kind", ["struct", "bytes"])
def test_names_beside_images_without_names_are_used(tmp_path, kind):
    images = [b"x"] * 2 if kind == "bytes" else [{"bytes": b"x", "path": None}] * 2
    columns = {"image": images, "file_name": ["a.jpg", "b.jpg"], "caption": ["a", "b"], "label": ["x", "y"]}
    write(tmp_path / "t.parquet", columns, None, **({} if kind == "bytes" else {"image": IMAGES}))
    source = read_source(tmp_path / "t.parquet", {})
    assert (source.images, source.images_inside) == (["a.jpg", "b.jpg"], "image")


# -- nothing is read that is not needed


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes that Linux counts")
@pytest.mark.parametrize("nested", [True, False])
def test_bytes_of_images_are_never_read(tmp_path, nested):
    blob, n = os.urandom(100_000), 300
    images = [{"bytes": os.urandom(8) + blob, "path": f"{i}.jpg"} for i in range(n)]
    columns = {"image": images} if nested else {"image": [one["bytes"] for one in images]}
    columns |= {"caption": [str(i) for i in range(n)], "label": [i % 3 for i in range(n)]}
    kind = IMAGES if nested else pa.binary()
    data = pa.table({name: pa.array(values, kind if name == "image" else None) for name, values in columns.items()})
    pq.write_table(data, tmp_path / "t.parquet", row_group_size=50, use_dictionary=False)
    assert (tmp_path / "t.parquet").stat().st_size > 25_000_000

    def n_read() -> int:
        return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])

    before = n_read()
    source = read_source(tmp_path / "t.parquet", {})
    assert n_read() - before < 1_000_000
    assert source.images == ([f"{i}.jpg" for i in range(n)] if nested else [""] * n)
    assert source.images_inside == "image"


# -- init


def test_init_uses_captions_and_says_what_to_do_about_images_inside(tmp_path):
    dataset(tmp_path / "data" / "t.parquet", n=30)
    said = init(tmp_path / "p", str(tmp_path / "data" / "t.parquet")).summary
    assert "images inside column 'image' are not read by this version" in said
    assert "save them as files under the names in column 'image.path', and name their place: --images PATH" in said
    for i in range(30):
        Image.fromarray(np.full((4, 4, 3), i * 8, np.uint8)).save(tmp_path / "data" / f"{i}.png")
    result = init(tmp_path / "q", str(tmp_path / "data" / "t.parquet"), images=(str(tmp_path / "data"),))
    assert "not read by this version" not in result.summary
    assert re.search(r"images +30 +0 missing", result.summary)
    assert 'image     = "image.path"' in (tmp_path / "q" / FILE_NAME).read_text()
    assert init(tmp_path / "q").unchanged


def test_images_without_names_are_named_by_ids_once_they_are_files(tmp_path):
    dataset(tmp_path / "t.parquet", paths=False, n=30, id=[f"r{i}" for i in range(30)])
    said = init(tmp_path / "p", str(tmp_path / "t.parquet")).summary
    assert "under the names in column 'id', and name their place: --image id --images PATH" in said
    (tmp_path / "photos").mkdir()
    for i in range(30):
        Image.fromarray(np.full((4, 4, 3), i * 8, np.uint8)).save(tmp_path / "photos" / f"r{i}.png")
    result = init(tmp_path / "q", str(tmp_path / "t.parquet"), image_column="id", images=(str(tmp_path / "photos"),))
    assert re.search(r"images +30 +0 missing", result.summary)


@pytest.mark.parametrize("kind", ["nameless", "named", "bytes"])
def test_images_inside_and_no_captions_are_one_line(tmp_path, kind):
    images = [{"bytes": b"x", "path": f"{i}.jpg" if kind == "named" else None} for i in range(30)]
    columns = {"image": [b"x"] * 30 if kind == "bytes" else images, "label": [i % 3 for i in range(30)]}
    write(tmp_path / "t.parquet", columns, None, **({} if kind == "bytes" else {"image": IMAGES}))
    with pytest.raises(DataError, match=r"t.parquet: .*this version") as error:
        init(tmp_path / "p", str(tmp_path / "t.parquet"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "p" / FILE_NAME).exists()


def test_new_rows_with_images_inside_are_read_for_their_captions(tmp_path, capsys):
    from mmfeat.inference.new_rows import table_rows

    rows = table_rows(str(dataset(tmp_path / "t.parquet")), (), {}, {})
    assert rows.captions == [f"caption {i}" for i in range(6)]
    assert rows.images == [""] * 6
    assert "images inside column 'image' are not read by this version" in capsys.readouterr().err


# -- shards


def shards(folder: Path) -> None:
    for number, split in enumerate(["train", "train", "validation", "test"]):
        name = f"{split}-{number % 2:05d}-of-{2 if split == 'train' else 1:05d}.parquet"
        name = name if split == "train" else f"{split}-00000-of-00001.parquet"
        dataset(folder / name, start=10 * number)


@pytest.mark.parametrize("place", ["", "data", "default/train"])
def test_a_folder_of_shards_is_one_table(tmp_path, place):
    shards(tmp_path / "d" / place)
    source = read_source(tmp_path / "d", {})
    assert sorted(source.ids, key=lambda name: int(name[:-4])) == [
        f"{10 * k + i}.png" for k in range(4) for i in range(6)
    ]
    assert source.kind == "tables in d: test-00000-of-00001.parquet and 3 more"
    line = "splits in the files' names are not used: test (1 file), train (2 files), validation (1 file) are one table"
    assert any(line in hint for hint in source.hints)


@pytest.mark.parametrize("pattern", ["data/*.parquet", "data/train-*.parquet", "**/train-0000?-of-00002.parquet"])
def test_a_pattern_of_shards_is_one_table(tmp_path, pattern):
    shards(tmp_path / "data")
    source = read_source(tmp_path / pattern, {})
    assert len(source.ids) == (24 if pattern == "data/*.parquet" else 12)
    folder = tmp_path / "p"
    init(folder, str(tmp_path / pattern))
    assert init(folder).unchanged
    assert "*" in (folder / FILE_NAME).read_text().split("[data]")[1].split("\n")[1]
    assert len(read_rows(tmp_path / pattern, {}, {}).ids) == len(source.ids)


@pytest.mark.parametrize("name", ["test.parquet", "z.parquet"])
def test_a_test_split_without_labels_is_unlabelled(tmp_path, name):
    dataset(tmp_path / "train.parquet")
    columns = {"image": [{"bytes": b"", "path": "x.png"}], "caption": ["c"]}
    write(tmp_path / name, columns, None, image=IMAGES)
    source = read_source(tmp_path, {})
    assert dict(zip(source.ids, source.labels, strict=True))["x.png"] is None
    assert sum(labels is not None for labels in source.labels) == 6


def test_shards_that_are_missing_are_named(tmp_path):
    shards(tmp_path)
    hints = read_source(tmp_path / "train-00001-of-00002.parquet", {}).hints
    assert any("1 shard of 2 read. All that are there: mmfeat init '" in hint for hint in hints)
    assert about_files([tmp_path / f"train-{k:05d}-of-00002.parquet" for k in (0, 1)]) == []


def test_tables_of_different_columns_are_no_shards(tmp_path):
    dataset(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", {"name": ["x"], "caption": ["c"]})
    with pytest.raises(DataError, match=r"b.parquet: has a column 'name', and .*a.parquet has 'image' instead"):
        read_source(tmp_path, {})


def test_files_of_a_project_are_no_shards(tmp_path):
    dataset(tmp_path / "manifest.parquet")
    dataset(tmp_path / ".mmfeat" / "digests.parquet")
    assert parquet_files(tmp_path) == []
    with pytest.raises(DataError, match=r"nor \.parquet there"):
        read_source(tmp_path, {})
    with pytest.raises(DataError, match="no file matches"):
        read_source(tmp_path / "x*.parquet", {})


def test_a_file_that_changes_while_it_is_read_is_not_mixed(tmp_path):
    table = read_table(dataset(tmp_path / "t.parquet"))
    assert table.texts("caption")[0] == "caption 0"
    dataset(tmp_path / "new.parquet", start=50)
    (tmp_path / "new.parquet").replace(tmp_path / "t.parquet")
    assert table.texts("caption")[0] == "caption 0"  # read already
    with pytest.raises(DataError, match="has changed since it was opened"):
        table.texts("image.path")
