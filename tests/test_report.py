"""Tables for a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmfeat.report.tables import shown, table


@given(st.text())
def test_untrusted_text_is_one_printable_line(text):
    safe = shown(text, 40)
    assert len(safe) <= 40
    assert all(c.isprintable() for c in safe)


def test_columns_are_aligned_and_trailing_text_follows():
    text = table(("encoder", "rows"), [("a", "1", "note"), ("longer name", "1,000")])
    assert text == "encoder        rows\na                 1   note\nlonger name   1,000"
