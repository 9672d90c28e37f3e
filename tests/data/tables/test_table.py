"""Tables of every kind: what is written comes back, and what cannot be read is one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.tables.readers import read_source
from mmfeat.data.tables.table import is_blank
from mmfeat.data.tables.table_forms import read_table

HEADER = ("id", "caption", "labels")
CELL = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8)


def write(path: Path, rows: list[tuple], header: tuple[str, ...] = HEADER) -> Path:
    """A table of texts in the form of its suffix; None is a cell with nothing in it."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(header)
            writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    elif path.suffix == ".parquet":
        pq.write_table(
            pa.table({name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}), path
        )
    else:
        lines = [json.dumps({k: v for k, v in zip(header, row, strict=True) if v is not None}) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([".csv", ".tsv", ".parquet", ".jsonl"]))
def test_what_is_written_comes_back(tmp_path_factory, rows, suffix):
    table = read_table(write(tmp_path_factory.mktemp("t") / f"t{suffix}", rows))
    assert table.header == list(HEADER)
    assert table.n_rows == len(rows)
    for name, cells in zip(HEADER, zip(*rows, strict=True), strict=True):
        assert table.texts(name) == list(cells)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_every_kind_gives_the_same_samples(tmp_path, suffix):
    rows = [("a", "one\ntwo", "x y"), ("b", '"quoted", too', None), ("c", None, "z"), ("d", "é 🙂", "x")]
    source = read_source(write(tmp_path / f"t{suffix}", rows), {})
    assert source.ids == ["a", "b", "c", "d"]
    assert source.captions == ["one\ntwo", '"quoted", too', "", "é 🙂"]
    assert source.labels == [["x", "y"], None, ["z"], ["x"]]
    assert source.classes == ("x", "y", "z")
    assert source.splits_cells


def test_tabs_and_line_ends_alone_count_where_quotes_do_not_pair(tmp_path):
    (tmp_path / "t.tsv").write_text('id\tcaption\tlabels\na\t"so it goes\tx\nb\tsays "hi" to\ty\nc\t5" long\tx\n')
    assert read_source(tmp_path / "t.tsv", {}).captions == ['"so it goes', 'says "hi" to', '5" long']


def test_values_that_are_no_texts_become_texts(tmp_path):
    data = {
        "id": [1, 2, 3],
        "caption": [["one", " ", "two"], [], None],
        "labels": pa.array([["a b", "c"], [], None], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    source = read_source(tmp_path / "t.parquet", {})
    assert source.ids == ["1", "2", "3"]
    assert source.captions == ["one\ntwo", "", ""]
    assert source.labels == [["a b", "c"], [], None]
    assert not source.splits_cells


def test_whole_numbers_that_pandas_made_floats(tmp_path):
    data = {"id": ["a", "b", "c"], "caption": ["x"] * 3, "label": [3.0, float("nan"), 10.0]}
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    source = read_source(tmp_path / "t.parquet", {})
    assert source.labels == [["3"], None, ["10"]]
    assert source.classes == ("3", "10")


def test_columns_that_nobody_asks_for_are_not_read(tmp_path):
    data = {"id": ["a"], "caption": ["x"], "labels": ["y"], "image.bytes": [b"\xff\xd8"], "box": [{"x": 1}]}
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.plain == ["id", "caption", "labels"]
    assert read_source(tmp_path / "t.parquet", {}).ids == ["a"]
    with pytest.raises(DataError, match=r"row 1: column 'image.bytes' holds bytes, and texts are needed"):
        read_source(tmp_path / "t.parquet", {"image": "image.bytes"})
    with pytest.raises(DataError, match=r"row 1: column 'box' holds a struct"):
        read_source(tmp_path / "t.parquet", {"caption": "box"})


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.jsonl", b"", "has no row"),
        ("t.jsonl", b"{}\n{}\n", "has no column"),
        ("t.jsonl", b'{"id": "a"}\n{"id": \n', ":2: not JSON"),
        ("t.jsonl", b'\n["a"]\n', ":2: a list, and each line holds one object"),
        ("t.jsonl", b'{"id": "\xff"}\n', ":1: not UTF-8 (byte 0xff)"),
        ("t.jsonl", b"[" * 100_000, "not JSON"),
        ("t.parquet", b"PAR1 no table", "not a Parquet file that can be read"),
        ("t.parquet", b"", "not a Parquet file that can be read"),
        ("t.tsv", b"id\tcaption\tlabels\na\tb\n", ":2: 2 cells under a header of 3"),
        ("t.tsv", b"id\tcaption\tlabels\n", "no row"),
        ("t.txt", b"id,caption,labels\n", "no row"),
        ("t.dat", b"nothing\n", "Found .dat"),
        ("t.json", b"[1, 2]", "Rows of a table: .jsonl"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        read_source(tmp_path / name, {})
    assert says in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_two_columns_of_one_name(tmp_path):
    data = pa.Table.from_arrays([pa.array(["a"])] * 2, ["id", "id"])
    pq.write_table(data, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t.parquet: column 'id' occurs twice"):
        read_table(tmp_path / "t.parquet")


def test_half_a_character_does_not_stand_in_a_table(tmp_path):
    line = r'{"id": "a", "caption": "\ud83d\ude42 \ud83d", "labels": ["x"]}'
    (tmp_path / "t.jsonl").write_text(line)
    assert read_source(tmp_path / "t.jsonl", {}).captions == ["🙂 ?"]


@pytest.mark.parametrize(("cell", "blank"), [(None, True), (" ", True), (float("nan"), True), (0, False), ([], False)])
def test_blank_cells(cell, blank):
    assert is_blank(cell) is blank


def test_places_name_the_row(tmp_path):
    rows = [("a", "x\ny", "l"), ("b", "z", "l")]
    assert read_table(write(tmp_path / "t.csv", rows)).place(1) == "t.csv:4"
    assert read_table(write(tmp_path / "t.parquet", rows)).place(1) == "t.parquet row 2"
    assert read_table(write(tmp_path / "t.jsonl", rows)).place(1) == "t.jsonl:2"
