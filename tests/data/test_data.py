"""Readers, image sources, row keys, splits and the manifest."""

from __future__ import annotations

import csv
import io
import os
import time
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, caption_keys, image_keys
from mmfeat.data.tables.readers import read_classes, read_source


def kaggle(tmp_path, train: str, test: str | None = None):
    (tmp_path / "train.csv").write_bytes(train.encode("utf-8"))
    if test is not None:
        (tmp_path / "test.csv").write_bytes(test.encode("utf-8"))
    return tmp_path


# -- records that are not valid CSV

AWKWARD = [
    'says "for rent".',
    'reads "spray."',
    '"Hammer time" on a sign',
    "a, b, and c",
    'three, "quoted, words", here',
    "ends in a slash/",
    "ends in a backslash\\",
    "a crow\\d of people",
    "two\nlines",
    "w\n\n\n\n\n\n\n\n\nA couple of men",
    '\n."',
    '"COURT"/',
    'He said ""hello"" twice "',
    " spaces around ",
    "5,6.jpg is not an id",
    "",
    "é 🙂",
]


def test_awkward_captions_come_back_to_the_letter(tmp_path):
    lines = "".join(f'{i}.jpg,1 {i % 3 + 2},"{caption}"\n' for i, caption in enumerate(AWKWARD))
    test = "".join(f'{100 + i}.jpg,"{caption}"\n' for i, caption in enumerate(AWKWARD))
    source = read_source(kaggle(tmp_path, "ImageID,Labels,Caption\n" + lines, "ImageID,Caption\n" + test), {})
    assert source.captions == AWKWARD * 2
    assert source.ids == [f"{i}.jpg" for i in range(len(AWKWARD))] + [f"{100 + i}.jpg" for i in range(len(AWKWARD))]
    assert source.labels[len(AWKWARD) :] == [None] * len(AWKWARD)
    assert source.n_recovered > 0
    assert any("train.csv:2" in note for note in source.notes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(blacklist_characters="\r\0", blacklist_categories=["Cs"]), max_size=30),
        min_size=1,
        max_size=8,
    )
)
def test_valid_csv_is_read_as_csv_says(tmp_path_factory, captions):
    tmp_path = tmp_path_factory.mktemp("csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["ImageID", "Labels", "Caption"])
    writer.writerows([f"{i}.jpg", "1", caption] for i, caption in enumerate(captions))
    source = read_source(kaggle(tmp_path, text.getvalue()), {})
    assert source.captions == captions
    assert source.n_recovered == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from('ab", \n/\\'), max_size=20), min_size=1, max_size=6))
@example(['"\n\\,,\n'])  # a line that may begin a record: an error
def test_no_record_is_ever_lost(tmp_path_factory, captions):
    """Whatever stands between the outer quotes, as many records come back as went in, with their ids."""
    tmp_path = tmp_path_factory.mktemp("csv")
    lines = "".join(f'{i}.jpg,1,"{caption}"\n' for i, caption in enumerate(captions))
    try:
        list(csv.reader(io.StringIO(lines, newline=""), strict=True))
        strict = True  # valid by chance: the standard reading is right, whatever it is
    except csv.Error:
        strict = False
    try:
        ids, said = read_source(kaggle(tmp_path, "ImageID,Labels,Caption\n" + lines), {}).ids, ""
    except DataError as error:  # as when it reads a row without id
        ids, said = [], str(error)
    assert (
        strict
        or ids == [f"{i}.jpg" for i in range(len(captions))]
        or "may begin a record or continue the caption" in said
    )


@pytest.mark.parametrize("name", ["2.png", "2.JPG", "my photo.jpg", "my photo, the second.jpg", "2.webp"])
@pytest.mark.parametrize("first", ["1.jpg", "one"])
def test_a_broken_caption_swallows_no_record_with_another_kind_of_image_name(tmp_path, name, first):
    quoted = f'"{name}"' if "," in name else name
    lines = f'{first},1,"says "hi""\n{quoted},2,"second"\n3.jpg,1,"third"\n'
    source = read_source(kaggle(tmp_path, "ImageID,Labels,Caption\n" + lines), {})
    assert source.ids == [first, name, "3.jpg"]
    assert source.captions == ['says "hi"', "second", "third"]


@pytest.mark.parametrize("line", ['the second,2,"a caption"', "x,2,a caption", 'x,2,"says "hi" too"'])
def test_a_line_that_may_begin_a_record_or_not_is_an_error(tmp_path, line):
    text = f'ImageID,Labels,Caption\n1.jpg,1,"says "hi""\n{line}\n3.jpg,1,c\n'
    with pytest.raises(DataError, match=r"train.csv:3: .*may begin a record or continue the caption of line 2"):
        read_source(kaggle(tmp_path, text), {})


def test_a_line_within_open_quotes_goes_on_with_its_caption(tmp_path):
    text = 'ImageID,Labels,Caption\n1.jpg,1,"says "hi"\nx,2,a caption"\n3.jpg,1,c\n'
    source = read_source(kaggle(tmp_path, text), {})
    assert source.captions == ['says "hi"\nx,2,a caption', "c"]


def test_the_real_table(coco18):
    source = read_source(coco18, {})
    assert len(source.ids) == 24_000
    assert sum(labels is None for labels in source.labels) == 4_000
    assert source.classes == tuple(str(k) for k in range(1, 20) if k != 12)
    caption = dict(zip(source.ids, source.captions, strict=True))
    assert caption["14957.jpg"] == 'A red stop sign next to a paper sign that reads "COURT"/'
    assert caption["22571.jpg"] == "A crow\\d of people enjoys a sunny day on the beach"
    assert caption["24624.jpg"].count("\n") == 14
    assert caption["7208.jpg"] == 'A kitten looking at a television screen which reads, "COME DINE WITH ME".'
    # Every byte of the file is a header, an id, labels, a caption or what stands between them.
    data = (coco18 / "train.csv").read_text(encoding="utf-8")
    rows = zip(source.ids[:20_000], source.labels, source.captions, strict=False)
    again = "ImageID,Labels,Caption\n" + "".join(f'{i},{" ".join(labels)},"{c}"\n' for i, labels, c in rows)
    assert again == data


# -- tables

TABLE = "id,picture,title,tags\na,1.jpg,hello,x|two words\nb,2.jpg,,\n"


def test_a_table_with_named_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    source = read_source(path, {"labels": "tags"}, "|")
    assert source.columns == {"id": "id", "image": "picture", "caption": "title", "labels": "tags", "group": ""}
    assert source.labels == [["x", "two words"], None]
    assert source.classes == ("two words", "x")


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("", {}, "empty"),
        ("id,caption,labels\n", {}, "no row"),
        ("id,caption,labels\n1,a\n", {}, ":2: 2 cells under a header of 3"),
        ('id,caption,labels\n1,"a"b,c\n', {}, "not valid CSV: line 2"),
        ('id,caption,labels\n1,a,b\n2,"open,c\n', {}, "not valid CSV: line 3"),
        ("id,caption,labels\n1,a,b\n1,c,d\n", {}, "repeated ids: '1'"),
        ("id,caption,labels\n1,a,b\n", {"caption": "captoin"}, "no column 'captoin' for caption"),
        ("id,words,labels\n1,a,b\n", {}, "--caption COLUMN"),
        ("id,caption,kind\n1,a,b\n", {}, "--labels COLUMN"),
        ("id,caption,labels\n1,a,\n", {}, "no row has a label"),
        ("id,caption,caption\n1,a,b\n", {}, "occurs twice"),
        ("id,caption,labels\n ,a,b\n", {}, "the id in column 'id' is blank"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, text, columns, says):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_source(path, columns)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"id,capt\xffion,labels\n1,a,b\n", 1),
        (b"id,caption,labels\n1,a,b\n\xff,b,c\n", 3),
        (b'id,caption,labels\n1,"a\nb",b\n2,a,\xff\n', 4),
        (b"id,image,caption,labels\n1,\xff.jpg,a,b\n", 2),
        (b"id,caption,labels,notes\n1,a,b,\xff\n", 2),
    ],
)
def test_text_that_is_not_utf8_names_its_line(tmp_path, data, line):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf":{line}: not UTF-8"):
        read_source(path, {})


@pytest.mark.parametrize("recover", [False, True])
def test_bytes_of_a_caption_that_are_not_utf8_are_replaced_and_noted(tmp_path, recover):
    broken = b'9.jpg,x,"says "hi""\n' if recover else b""
    data = b'ImageID,Labels,Caption\n1.jpg,x,a\n2.jpg,y,"a \xff\xe2\x82 b\n\xed\xa0\x80"\n3.jpg,x,caf\xc3\xa9 \xf0\x9f\x99\x82\n'
    (tmp_path / "train.csv").write_bytes(data + broken)
    source = read_source(tmp_path, {})
    assert source.captions[:3] == ["a", "a \ufffd\ufffd b\n\ufffd\ufffd\ufffd", "caf\u00e9 \U0001f642"]
    assert source.ids[:3] == ["1.jpg", "2.jpg", "3.jpg"]
    assert source.n_damaged == 1
    assert [note for note in source.notes if "UTF-8" in note] == [
        "train.csv:3: bytes of the caption that are not UTF-8 became U+FFFD"
    ]


def test_a_label_outside_the_class_list(tmp_path):
    with pytest.raises(DataError, match=r"label 'dgo' is not in the class list of 2. Nearest: 'dog'"):
        read_source(kaggle(tmp_path, "ImageID,Labels,Caption\n1.jpg,dgo,a\n"), {}, classes=["cat", "dog"])


def test_a_class_list_keeps_its_order(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("label,name\ndog,Dog\ncat,Cat\nemu,Emu\n")
    assert read_classes(path) == ("dog", "cat", "emu")
    source = read_source(kaggle(tmp_path, "ImageID,Labels,Caption\n1.jpg,cat,a\n"), {}, classes=read_classes(path))
    assert source.classes == ("dog", "cat", "emu")


@pytest.mark.parametrize(
    ("rows", "says"), [("cat\ncat\n", r":3: repeats 'cat' of line 2"), ('cat\n" "\n', r":3: .*blank")]
)
def test_a_bad_class_list_is_one_line(tmp_path, rows, says):
    (tmp_path / "classes.csv").write_text("label\n" + rows)
    with pytest.raises(DataError, match=says):
        read_classes(tmp_path / "classes.csv")


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p, lambda p: p / "x.xls"])
def test_a_source_that_is_none(tmp_path, make):
    path = make(tmp_path)
    if path.suffix:
        path.write_text("x")
    with pytest.raises(DataError, match=r"train\.csv|CSV"):
        read_source(path, {})


def test_an_id_in_both_tables(tmp_path):
    folder = kaggle(tmp_path, "ImageID,Labels,Caption\n1.jpg,x,a\n", "ImageID,Caption\n1.jpg,b\n")
    with pytest.raises(DataError, match=r"repeated ids: '1.jpg' \(train.csv:2 and test.csv:2\)"):
        read_source(folder, {})


# -- images


def archive(path, members: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as z:
        for name, data in members.items():
            z.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def test_images_are_found_in_folders_and_archives(tmp_path):
    archive(tmp_path / "a-0.zip", {"data/1.jpg": b"one", "data/": b""})
    archive(tmp_path / "a-1.zip", {"data/2.jpg": b"two"}, zipfile.ZIP_DEFLATED)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "3.png").write_bytes(b"three")
    sources = ImageSources([tmp_path / "a-*.zip", tmp_path / "folder"])
    for name, data in {"1.jpg": b"one", "data/2.jpg": b"two", "3.png": b"three", "sub/3.png": b"three"}.items():
        assert sources.read(sources.locate(name)) == data
    assert sources.locate("4.jpg") is None


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg", "C:\\x.jpg"])
def test_a_member_that_leaves_the_archive_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="leaves the archive"):
        ImageSources([archive(tmp_path / "a.zip", {name: b"x"})]).locate("x.jpg")


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..\\secret.jpg"])
def test_a_name_that_leaves_the_folder_is_never_opened(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "images").mkdir()
    assert ImageSources([tmp_path / "images"]).locate(name) is None


def test_a_name_that_is_there_twice_is_an_error_for_who_asks(tmp_path):
    for number in (0, 1):
        archive(tmp_path / f"a-{number}.zip", {f"d{number}/1.jpg": b"x", f"d{number}/{number + 5}.jpg": b"y"})
    sources = ImageSources([tmp_path / "a-*.zip"])
    assert sources.locate("5.jpg")
    with pytest.raises(DataError, match="2 times"):
        sources.locate("1.jpg")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive"])
def test_a_damaged_archive_is_one_line(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="not a zip file"):
        ImageSources([tmp_path / "a.zip"]).locate("x.jpg")


def test_link_loops_end(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "me.jpg").symlink_to("me.jpg")
    (tmp_path / "images" / "1.jpg").write_bytes(b"x")
    sources = ImageSources([tmp_path / "images"])
    keys = image_keys(np.array(["1.jpg", "me.jpg"], dtype=object), sources)
    assert keys.present.tolist() == [True, False]
    assert 1 in keys.reasons


def test_nothing_at_a_pattern(tmp_path):
    with pytest.raises(DataError, match="nothing at"):
        ImageSources([tmp_path / "none-*.zip"])


# -- row keys


def folder_of(tmp_path, contents: dict[str, bytes]):
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1, 1))  # long settled
    return folder


def test_keys_are_those_of_the_bytes_wherever_they_lie(tmp_path):
    folder = folder_of(tmp_path, {"1.jpg": b"same", "2.jpg": b"same", "3.jpg": b"other"})
    packed = ImageSources([archive(tmp_path / "a.zip", {"x/9.jpg": b"same"})])
    names = np.array(["1.jpg", "2.jpg", "3.jpg", "none.jpg", ""], dtype=object)
    keys = image_keys(names, ImageSources([folder]))
    assert keys.present.tolist() == [True, True, True, False, False]
    assert keys.reasons == {3: "no such image"}
    assert np.array_equal(keys.keys[0], keys.keys[1])
    assert not np.array_equal(keys.keys[0], keys.keys[2])
    assert np.array_equal(image_keys(np.array(["9.jpg"], dtype=object), packed).keys[0], keys.keys[0])


def test_memory_saves_reading_and_sees_every_change(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, {"1.jpg": b"one", "2.jpg": b"two"})
    names = np.array(["1.jpg", "2.jpg"], dtype=object)
    memory = DigestMemory(tmp_path / "memory.parquet")
    reads = []
    original = ImageSources.read
    monkeypatch.setattr(ImageSources, "read", lambda self, location: reads.append(location) or original(self, location))
    first = image_keys(names, ImageSources([folder]), memory)
    assert len(reads) == 2
    again = image_keys(names, ImageSources([folder]), memory)
    assert len(reads) == 2
    assert np.array_equal(first.keys, again.keys)
    (folder / "2.jpg").write_bytes(b"owt")  # the same size
    changed = image_keys(names, ImageSources([folder]), memory)
    assert len(reads) == 3
    assert np.array_equal(first.keys[0], changed.keys[0])
    assert not np.array_equal(first.keys[1], changed.keys[1])
    # A file that has just been written is racily clean: it is read again until it has settled.
    image_keys(names, ImageSources([folder]), memory)
    assert len(reads) == 4
    assert time.time() - (folder / "2.jpg").stat().st_mtime < 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_memory_is_an_empty_one(tmp_path, damage):
    folder = folder_of(tmp_path, {"1.jpg": b"one"})
    names = np.array(["1.jpg"], dtype=object)
    memory = DigestMemory(tmp_path / "memory.parquet")
    expected = image_keys(names, ImageSources([folder]), memory).keys
    data = memory._rows.file.read_bytes()
    memory._rows.file.write_bytes(data[: len(data) // 2] if damage is None else damage)
    assert np.array_equal(image_keys(names, ImageSources([folder]), memory).keys, expected)


def test_blank_captions_are_absent():
    keys = caption_keys(np.array(["a", " \n\t", "", "a", "\udcff"], dtype=object))
    assert keys.present.tolist() == [True, False, False, True, True]
    assert np.array_equal(keys.keys[0], keys.keys[3])
    assert not keys.keys[1].any()


# -- manifest


def test_a_manifest_comes_back(tmp_path):
    texts = [np.array(x, dtype=object) for x in (["a", "b"], ["1.jpg", ""], ["", "é\n🙂"], ["train", "val"])]
    labels = np.array([[1, 0, -1], [-1, -1, -1]], np.int8)
    fields = dict(zip(("ids", "images", "captions", "split"), texts, strict=True))
    manifest = Manifest(**fields, labels=labels, classes=("x", "y", "z w"), columns={"id": "ID"})
    manifest.save(tmp_path / "m.parquet")
    back = Manifest.load(tmp_path / "m.parquet")
    for name in ("ids", "images", "captions", "labels", "split"):
        assert np.array_equal(getattr(manifest, name), getattr(back, name)), name
    assert (back.classes, back.columns) == (manifest.classes, manifest.columns)
    assert back.labels.dtype == np.int8
    assert back.rows("train").tolist() == [0]
    assert back.rows("val").tolist() == []
    assert back.rows("unlabelled").tolist() == [1]


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_damaged_manifest_is_one_line(tmp_path, cut):
    texts = [np.array(x, dtype=object) for x in (["a"], [""], [""], ["train"])]
    fields = dict(zip(("ids", "images", "captions", "split"), texts, strict=True))
    Manifest(**fields, labels=np.ones((1, 1), np.int8), classes=("x",)).save(tmp_path / "m.parquet")
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data[:cut])
    with pytest.raises(DataError, match="damaged"):
        Manifest.load(tmp_path / "m.parquet")
