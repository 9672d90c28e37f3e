"""Tables for a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmfeat.report.text_tables import about_metrics, shown, table


@given(st.text())
def test_untrusted_text_is_one_printable_line(text):
    safe = shown(text, 40)
    assert len(safe) <= 40
    assert all(c.isprintable() for c in safe)


def test_columns_are_aligned_and_trailing_text_follows():
    text = table(("encoder", "rows"), [("a", "1", "note"), ("longer name", "1,000")])
    assert str(text) == "encoder        rows\na                 1   note\nlonger name   1,000"


def test_figures_say_what_their_rows_are_and_what_is_left_out():
    assert about_metrics(0, "hidden rows") == "± is half the 95 % bootstrap interval; hidden rows."
    assert about_metrics(1, "x").endswith(
        "1 class without a positive among these rows is left out of macro F1 and mAP."
    )
    assert about_metrics(2, "x", seeds=True).endswith(
        "2 classes without a positive among these rows are left out of macro F1 and mAP."
    )
