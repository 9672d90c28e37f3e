"""Tables for a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.text_tables import about_metrics, metric_cells, metric_table, shown, table


@given(st.text())
def test_untrusted_text_is_one_printable_line(text):
    safe = shown(text, 40)
    assert len(safe) <= 40
    assert all(c.isprintable() for c in safe)


def test_columns_are_aligned_and_trailing_text_follows():
    text = table(("encoder", "rows"), [("a", "1", "note"), ("longer name", "1,000")])
    assert str(text) == "encoder        rows\na                 1   note\nlonger name   1,000"


def test_figures_say_what_their_rows_are_and_what_is_left_out():
    assert about_metrics(row(), "hidden rows") == "± is half the 95 % interval over rows; hidden rows."
    assert about_metrics(row(n_left_out=1), "x").endswith(
        "1 class without a positive among these rows is left out of macro F1 and mAP."
    )
    assert about_metrics(row(n_left_out=2), "x", seeds=True).endswith(
        "2 classes without a positive among these rows are left out of macro F1 and mAP."
    )
    assert "1 class with a positive among these rows is never predicted by a." in about_metrics(
        row(never_predicted=1), "x"
    )


def test_a_column_has_the_f1_at_half_where_a_threshold_is_another():
    plain = str(metric_table("rows", [row()]))
    assert "at 0.5" not in plain
    tuned = row(label="b", at_half={"samples_f1": 0.4, "micro_f1": 0.3, "macro_f1": 0.2})
    head, first, second = str(metric_table("rows", [row(), tuned], "macro-f1")).splitlines()
    assert head.split("   ")[-1].strip() == "macro F1 at 0.5"
    assert "± 0.020" in first
    assert first.split()[-1] == "0.500"
    assert second.split()[-1] == "0.200"


def test_a_record_without_an_interval_of_map_is_shown_without_one():
    assert metric_cells(row(map_spread=None))[2] == "0.500"


def row(**given) -> MetricRow:
    scores = dict.fromkeys(("samples_f1", "micro_f1", "macro_f1", "map", "loss"), 0.5)
    at_half = dict.fromkeys(("samples_f1", "micro_f1", "macro_f1"), 0.5)
    plain = {
        "label": "a",
        "spread": 0.01,
        "map_spread": 0.02,
        "at_half": at_half,
        "n_left_out": 0,
        "never_predicted": 0,
    }
    return MetricRow(**scores, **(plain | given))
