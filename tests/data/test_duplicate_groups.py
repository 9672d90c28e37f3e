"""groups.csv: what is read, what is refused, and how it merges with the groups of the source."""

from __future__ import annotations

import pytest

from mmfeat.common.errors import DataError
from mmfeat.data.duplicate_groups import groups_text, merged_groups, read_groups

IDS = ["a.jpg", "b,c.jpg", "d.jpg", "é.jpg"]


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "groups.csv"
    file.write_text(groups_text([("a.jpg", "b,c.jpg"), ("d.jpg", "gone.jpg")]), encoding="utf-8")
    assert read_groups(file, IDS).tolist() == ["a.jpg", "a.jpg", "d.jpg", ""]


def test_no_file_is_no_groups(tmp_path):
    assert read_groups(tmp_path / "groups.csv", IDS) is None


def test_spreadsheets_and_other_columns_are_read(tmp_path):
    file = tmp_path / "groups.csv"
    file.write_bytes("\ufeffnote;group;id\r\nx;1;e\u0301.jpg\r\n;;a.jpg\r\n;1;d.jpg\r\n".encode())
    assert read_groups(file, IDS).tolist() == ["", "", "1", "1"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("id,groups\na.jpg,1\n", "groups.csv:1: no column 'group'. Columns: 'id', 'groups'"),
        ("id,group\na.jpg,1\nd.jpg,1\na.jpg,2\n", "groups.csv:4: repeats the id 'a.jpg' of line 2"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, named):
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=named.replace("(", r"\(")):
        read_groups(tmp_path / "groups.csv", IDS)


def test_groups_of_both_kinds_are_merged():
    own = ["x", "", "y", "y", "", "z"]
    more = ["1", "1", "1", "", "2", "z"]
    assert merged_groups(own, more).tolist() == ["x", "x", "x", "x", "2", "z"]
    assert merged_groups([""] * 3, [""] * 3).tolist() == [""] * 3
    assert merged_groups(["1", ""], ["", "1"]).tolist() == ["1", "1"]
