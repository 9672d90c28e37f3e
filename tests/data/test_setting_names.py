"""What messages tell to type to name a column: options of init, of predict, or keys of mmfeat.toml."""

from __future__ import annotations

import pytest
from helpers.tables import table

from mmfeat.common.errors import DataError
from mmfeat.data.setting_names import IN_FILE, INIT, PREDICT, SettingError
from mmfeat.data.tables.readers import read_rows, read_source
from mmfeat.inference.new_rows import table_rows
from mmfeat.project.initialisation import init

SETTINGS = [[("labels", "my tags")], [("separator", "|")]]


@pytest.mark.parametrize(
    ("names", "typed"),
    [
        (INIT, "Use: --labels 'my tags' --separator '|' (perhaps also --split-column part)"),
        (
            IN_FILE,
            'Use: labels = "my tags" under [data] and separator = "|" under [data] (perhaps also column = "part" under '
            "[split]) in mmfeat.toml, then: mmfeat init",
        ),
    ],
)
def test_an_error_names_settings_as_its_caller_does(names, typed):
    error = SettingError("t.csv: no labels.", SETTINGS, [[("split", "part")]])
    assert str(error.called(names)) == f"t.csv: no labels. {typed}"


def test_a_column_that_holds_the_text_of_an_option_is_left_as_it_is(tmp_path):
    odd = "say --image COLUMN Use: --id x"
    (tmp_path / "t.csv").write_text(f"id,{odd},n\n1,2,3\n")
    with pytest.raises(DataError) as found:
        read_rows(tmp_path / "t.csv", {}, {})
    assert repr(odd) in str(found.value)
    assert str(found.value).endswith("Use: --column caption=COLUMN or --column image=COLUMN")
    with pytest.raises(DataError, match=r"Use: --caption COLUMN or --image COLUMN --labels COLUMN$"):
        read_source(tmp_path / "t.csv", {})


def test_predict_names_its_own_option_where_no_image_is_found(tmp_path):
    (tmp_path / "t.csv").write_text("id,image\n1,a.jpg\n")
    with pytest.raises(DataError, match=r"Use: --images PATH or --column image=COLUMN$"):
        table_rows(str(tmp_path / "t.csv"), (str(tmp_path),), {}, {})


def test_an_existing_project_names_its_file_for_whatever_the_source_lacks(tmp_path):
    init(tmp_path, str(table(tmp_path)))
    (tmp_path / "t.csv").write_text("id,caption,labels\n1,a,\n2,b,\n")
    with pytest.raises(DataError, match=r'no row has a label.*Use: labels = "COLUMN" under \[data\] in mmfeat.toml'):
        init(tmp_path)


def test_predict_is_told_its_options():
    assert PREDICT.typed([[("image", "a b")], [("images", "PATH")]]) == "--column image='a b' --images PATH"
