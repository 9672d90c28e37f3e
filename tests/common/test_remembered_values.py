"""What is remembered: used only while all that it depends on is unchanged; never in the way."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mmfeat.common.remembered import Remembered, remember, stamps_of
from mmfeat.common.remembered_rows import RememberedRows


@pytest.fixture
def source(tmp_path):
    """A file that was written long ago."""
    file = tmp_path / "source"
    file.write_text("one")
    os.utime(file, (1, 1))
    return file


def kept(file, source, made_from=("a", 1)):
    memory = Remembered(file)
    memory.remember("name", {"value": [1, 2]}, made_from, files=stamps_of([source]))
    memory.save()
    return file


def test_a_value_is_used_while_it_was_made_from_the_same(tmp_path, source):
    file = kept(tmp_path / "memory.json", source)
    assert Remembered(file).recall("name", ("a", 1)) == {"value": [1, 2]}
    assert Remembered(file).recall("name", ("a", 2)) is None
    assert Remembered(file).recall("other", ("a", 1)) is None


@pytest.mark.parametrize("change", ["content", "replaced", "removed", "time"])
def test_a_changed_file_makes_a_value_nothing(tmp_path, source, change):
    file = kept(tmp_path / "memory.json", source)
    if change == "content":
        source.write_text("another")
        os.utime(source, (1, 1))
    elif change == "replaced":
        other = tmp_path / "other"
        other.write_text("one")
        os.utime(other, (1, 1))
        os.replace(other, source)
    elif change == "removed":
        source.unlink()
    else:
        os.utime(source, (2, 2))
    assert Remembered(file).recall("name", ("a", 1)) is None


def test_a_folder_counts_with_all_files_below(tmp_path):
    folder = tmp_path / "model" / "deep"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("one")
    os.utime(folder / "weights", (1, 1))
    file = kept(tmp_path / "memory.json", folder.parent)
    assert Remembered(file).recall("name", ("a", 1))
    (folder / "more").write_text("two")
    assert Remembered(file).recall("name", ("a", 1)) is None


def test_nothing_is_kept_of_a_file_that_may_be_written_in_the_same_tick(tmp_path, source):
    source.write_text("now")
    assert Remembered(kept(tmp_path / "memory.json", source)).recall("name", ("a", 1)) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "unsealed", "of another form", "a list"])
def test_a_damaged_or_older_file_holds_nothing_and_is_written_again(tmp_path, source, damage):
    file = kept(tmp_path / "memory.json", source)
    text = file.read_text()
    if damage == "cut":
        file.write_text(text[:-20])
    elif damage == "flipped":
        file.write_text(text.replace("1,", "3,", 1))
    elif damage == "unsealed":
        file.write_text(json.dumps({key: value for key, value in json.loads(text).items() if key != "seal"}))
    elif damage == "of another form":
        remember(file, {"name": {"fingerprint": "x", "watched": [], "identity": {}}})
    else:
        file.write_text("[1]")
    assert Remembered(file).recall("name", ("a", 1)) is None
    assert Remembered(kept(file, source)).recall("name", ("a", 1))


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, source):
    (tmp_path / "file").write_text("")
    kept(tmp_path / "file" / "memory.json", source)
    assert Remembered(tmp_path / "file" / "memory.json").recall("name", ("a", 1)) is None


def test_two_at_once_keep_both_and_the_oldest_go(tmp_path):
    one, other = Remembered(tmp_path / "memory.json", most=2), Remembered(tmp_path / "memory.json", most=2)
    assert one.recall("a") is None
    assert other.recall("a") is None
    one.remember("a", 1)
    other.remember("b", 2)
    one.save()
    other.save()
    assert [Remembered(tmp_path / "memory.json").recall(name) for name in "ab"] == [1, 2]
    one.remember("c", 3)
    one.save()
    assert [Remembered(tmp_path / "memory.json").recall(name) for name in "abc"] == [None, 2, 3]
    one.forget("b")
    one.save()
    assert [Remembered(tmp_path / "memory.json").recall(name) for name in "abc"] == [None, None, 3]


def test_rows_come_back_and_damage_is_nothing(tmp_path):
    rows = RememberedRows(tmp_path / "rows.parquet", ("2", "1"), {"key": 4, "more": 1}, names="id")
    assert rows.read() is None
    keys = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rows.write({"key": keys}, names=["a", "b", "c"], state="s")
    found = rows.read()
    assert (found.names, found.state, found.format) == (["a", "b", "c"], "s", "2")
    np.testing.assert_array_equal(found.columns["key"], keys)
    assert not found.columns["more"].any()  # a column that the file lacks
    assert RememberedRows(rows.file, ("3",), {"key": 4}).read() is None
    data = bytearray(rows.file.read_bytes())
    data[10] ^= 1
    rows.file.write_bytes(data)
    assert rows.read() is None
    rows.forget()
    rows.forget()
    assert not rows.file.exists()
