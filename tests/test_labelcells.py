"""From cells to labels: names, columns of 0, 1 and blank, and what is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.tables.label_cells import apply_absent
from mmfeat.data.tables.readers import read_source


def labels_of(tmp_path, text: str, **given) -> tuple[list, tuple[str, ...], str]:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    source = read_source(tmp_path / "t.csv", given.pop("columns", {}), **given)
    return source.encoded(source.classes).tolist(), source.classes, source.absent


def test_blank_is_unknown_where_noes_are_given(tmp_path):
    text = "id,caption,dog,beach\na,x,1,\nb,x,0,0\nc,x,,\nd,x,,1\n"
    assert labels_of(tmp_path, text) == ([[1, -1], [0, 0], [-1, -1], [-1, 1]], ("dog", "beach"), "unknown")
    assert labels_of(tmp_path, text, absent="negative")[0] == [[1, 0], [0, 0], [-1, -1], [0, 1]]


def test_blank_is_no_where_only_1_is_given_and_a_blank_row_is_unlabelled(tmp_path):
    text = "id,caption,dog,beach\na,x,1,\nb,x,,\nc,x,true,1.0\n"
    assert labels_of(tmp_path, text) == ([[1, 0], [-1, -1], [1, 1]], ("dog", "beach"), "negative")
    with pytest.raises(DataError, match=r'absent = "unknown" requires explicit negatives.*hold no 0'):
        labels_of(tmp_path, text, absent="unknown")


def test_names_give_no_noes(tmp_path):
    text = "id,caption,labels\na,x,dog\nb,y,\n"
    assert labels_of(tmp_path, text)[2] == "negative"
    with pytest.raises(DataError, match=r'absent = "unknown" requires explicit negatives.*label names give none'):
        labels_of(tmp_path, text, absent="unknown")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1, 0, -1]), min_size=3, max_size=3), min_size=1, max_size=9))
def test_what_is_given_never_changes(rows):
    given_labels = np.array(rows, np.int8)
    if (given_labels == 0).any():
        assert np.array_equal(apply_absent(given_labels, "auto")[0], given_labels)
    labels, _ = apply_absent(given_labels, "negative")
    known = given_labels >= 0
    assert np.array_equal(labels[known], given_labels[known])
    assert np.array_equal((labels >= 0).all(1), known.any(1))
    assert np.array_equal((labels < 0).all(1), ~known.any(1))


def test_the_forms_that_parquet_gives(tmp_path):
    data = {
        "id": ["a", "b", "c"],
        "caption": ["x"] * 3,
        "flag": [True, False, None],
        "number": [1.0, float("nan"), 0.0],
        "whole": pa.array([0, 1, None], pa.int8()),
        "text": ["TRUE", " 0 ", ""],
    }
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    source = read_source(tmp_path / "t.parquet", {})
    assert source.classes == ("flag", "number", "whole", "text")
    assert source.encoded(source.classes).tolist() == [[1, 1, 0, 1], [0, -1, 1, 0], [-1, 0, -1, -1]]


def test_a_class_list_orders_label_columns(tmp_path):
    text = "id,caption,dog,beach\na,x,1,0\nb,x,0,1\n"
    labels, classes, _ = labels_of(tmp_path, text, classes=["beach", "cat", "dog"])
    assert classes == ("beach", "cat", "dog")
    assert labels == [[0, -1, 1], [1, -1, 0]]
    assert labels_of(tmp_path, text.replace("0", ""), classes=["beach", "cat", "dog"])[0] == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(DataError, match=r"column 'beach' is not in the class list of 2. Nearest: 'beech'"):
        labels_of(tmp_path, text, classes=["beech", "dog"])


@pytest.mark.parametrize(
    ("cell", "shown"), [("0.3", "'0.3'"), ("2", "'2'"), ("-1", "'-1'"), ("yes", "'yes'"), ("1\x1b", r"'1\x1b'")]
)
def test_what_is_neither_0_nor_1_is_named_with_its_column_and_row(tmp_path, cell, shown):
    text = f"id,caption,dog,beach\na,x,1,0\nb,x,1,{cell}\n"
    with pytest.raises(DataError) as error:
        labels_of(tmp_path, text, columns={"labels": ("dog", "beach")})
    assert f"t.csv:3: column 'beach' holds {shown}" in str(error.value)
    assert "1, 0 or nothing" in str(error.value)


def test_one_column_of_measures_is_none_of_labels(tmp_path):
    with pytest.raises(DataError, match=r"t.csv:3: column 'label' holds '0.3', and labels are names, not measures"):
        labels_of(tmp_path, "id,caption,label\na,x,1\nb,x,0.3\nc,x,\n")
    assert labels_of(tmp_path, "id,caption,label\na,x,v1.5\nb,x,0.3\n")[1] == ("0.3", "v1.5")
    pq.write_table(pa.table({"id": ["a"], "caption": ["x"], "label": [0.3]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t.parquet row 1: column 'label' holds 0.3"):
        read_source(tmp_path / "t.parquet", {})


@pytest.mark.parametrize("separator", [" ", ";"])
def test_mixed_separators_are_named(tmp_path, separator):
    text = 'id,caption,labels\na,x,cat|dog\nb,x,"cat,dog"\nc,x,cat\n'
    with pytest.raises(DataError) as error:
        labels_of(tmp_path, text, separator=separator)
    said = str(error.value)
    assert "'cat|dog' (t.csv:2)" in said
    assert "'cat,dog' (t.csv:3)" in said
    assert "--separator" in said
    (tmp_path / "t.csv").write_text(text)
    assert read_source(tmp_path / "t.csv", {}, separator, classes=["cat|dog", "cat,dog", "cat"]).hints == []


@pytest.mark.parametrize(
    ("separator", "hint"), [(" ", "',' is in 'cat, dog' (t.csv:2)"), ("|", "',' is in 'cat, dog'"), (",", None)]
)
def test_another_separator_that_stands_in_cells_is_a_hint(tmp_path, separator, hint):
    (tmp_path / "t.csv").write_text('id,caption,labels\na,x,"cat, dog"\nb,x,cat\n')
    hints = read_source(tmp_path / "t.csv", {}, separator).hints
    assert (hint in hints[0]) if hint else not hints


def test_labels_with_spaces_in_them(tmp_path):
    (tmp_path / "t.csv").write_text("id,caption,labels\na,x,traffic light| stop sign |\nb,x,\n")
    assert read_source(tmp_path / "t.csv", {}, "|").labels == [["traffic light", "stop sign"], None]
