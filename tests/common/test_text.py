"""Words for people, and strings that mmfeat.toml reads back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import counted, quoted, shown, shown_value, toml_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT | st.lists(TEXT))
def test_a_toml_value_reads_back_as_it_was(value):
    assert tomllib.loads(f"x = {toml_value(value)}\n")["x"] == value


@pytest.mark.parametrize("value", ['🙂 "quoted" \\ back', "\x00\x1b\x7f\n\t\x85\u2028", "'''", '"""'])
def test_odd_toml_values_read_back_as_they_were(value):
    assert tomllib.loads(f"x = {toml_value(value)}\n")["x"] == value


def test_what_toml_cannot_hold_is_one_line():
    with pytest.raises(ConfigError, match=r"not UTF-8.*Rename it"):
        toml_value("a\udcff.csv")


def test_numbers_of_things():
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert counted(2, "class", "classes") == "2 classes"


@given(st.text())
def test_shown_text_is_printable_and_short(text):
    assert shown(text).isprintable()
    assert len(shown(text)) <= 60


@pytest.mark.parametrize("text", ["a caption that goes on " * 5, "it's a caption that goes on " * 5])
def test_a_quoted_text_that_is_cut_keeps_its_closing_quote(text):
    for words in (quoted(text), shown_value(text), shown(repr(text), 40)):
        assert words[0] == words[-1]
        assert words[0] in "'\""
        assert words[-2] == "…"
        assert len(words) <= 60
