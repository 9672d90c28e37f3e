"""Which column serves as what, several captions, groups."""

from __future__ import annotations

import pytest

from mmfeat.common.errors import DataError
from mmfeat.data.tables.columns import find_columns
from mmfeat.data.tables.readers import read_source
from mmfeat.data.tables.table_forms import read_table

TABLE = "id,title,description,shop,beach,dog,price\na,T,D,s1,1,0,0.5\nb,,E,,0,1,3\nc, ,,s1,,1,1\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    return tmp_path / "t.csv"


def test_several_columns_make_one_caption(path):
    source = read_source(path, {"caption": ("title", "description")})
    assert source.captions == ["T\nD", "E", ""]
    assert source.columns["caption"] == ["title", "description"]
    assert read_source(path, {"caption": ("description",)}).columns["caption"] == "description"


def test_groups_are_read_where_they_are_named(path):
    assert read_source(path, {"group": "shop"}).groups == ["s1", "", "s1"]
    source = read_source(path, {})
    assert source.groups == [""] * 3
    assert source.columns["group"] == ""


def test_columns_of_0_and_1_are_found_where_no_other_has_labels(path):
    assert find_columns(read_table(path), {})["labels"] == ["beach", "dog"]
    path.write_text(TABLE.replace("shop", "tags"))
    assert find_columns(read_table(path), {})["labels"] == "tags"


def test_one_column_of_0_and_1_is_no_find_and_a_column_of_measures_is_named(path):
    path.write_text("id,title,beach,price\na,x,1,0\nb,y,0,0.3\n")
    with pytest.raises(
        DataError, match=r"'price' is not a column of 0 and 1: it holds '0.3' \(t.csv:3\).*--labels COLUMN"
    ):
        read_source(path, {})


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"caption": ("title", "descripton")}, "no column 'descripton' for caption"),
        ({"caption": ("title", "title")}, "column 'title' is named twice for caption"),
        ({"labels": ("beach", "cat")}, "no column 'cat' for labels"),
        ({"group": "shopp"}, "no column 'shopp' for group. Columns: "),
    ],
)
def test_a_column_that_is_not_there(path, columns, says):
    with pytest.raises(DataError) as error:
        read_source(path, columns)
    assert says in str(error.value)


def test_two_columns_that_only_differ_in_case_cannot_be_told_apart(path):
    path.write_text("id,caption,Label,label\na,x,y,z\n")
    with pytest.raises(DataError, match=r"columns 'Label' and 'label' may both serve as labels. Use: --labels COLUMN"):
        read_source(path, {})
    assert read_source(path, {"labels": "Label"}).labels == [["y"]]


def test_bytes_that_are_not_utf8_are_replaced_in_all_captions(path):
    path.write_bytes(b"id,title,description,labels\na,\xff,x,l\nb,y,\xfe,l\n")
    source = read_source(path, {"caption": ("title", "description")})
    assert source.captions == ["\ufffd\nx", "y\n\ufffd"]
    assert source.n_damaged == 2
    with pytest.raises(DataError, match=r":2: not UTF-8"):
        read_source(path, {"caption": "description"})
