"""Tables of values: as text within a width, and as JSON."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.report.table_layout import Cell, Unshown, about_hidden, count, duration, number, outside, signed, table


def models(n_columns: int = 3, note: str = "", label: str = "concat"):
    head = ["model", "samples F1", "loss", "MB", *(f"extra {i}" for i in range(n_columns))]
    cells = [outside(label), number(0.81234567, spread=0.01), number(0.25, 4), number(None, 1)]
    return table(head, [[*cells, *(count(1000 + i) for i in range(n_columns)), note]], title="models")


def test_the_least_important_columns_leave_first():
    made = models()
    assert made.hidden(None) == made.hidden(200) == []
    assert made.text(200) == str(made)
    assert made.hidden(50) == ["loss", "extra 2"]  # the highest rank, then the rightmost
    assert made.hidden(20) == ["loss", "MB", "extra 0", "extra 1", "extra 2"]
    assert made.text(20).splitlines()[1].split() == ["concat", "0.812", "±", "0.010"]
    both = table(["model", "samples F1", "mAP"], [["a", number(0.8, spread=0.1), number(0.7, spread=0.1)]])
    assert both.hidden(30) == ["± of mAP"]
    assert both.text(30).splitlines()[1].split() == ["a", "0.800", "±", "0.100", "0.700"]
    kept = table(["model", "loss", "mAP"], [["a", "0.1", "0.2"]], keep=["loss"])
    assert kept.hidden(14) == ["mAP"]
    assert about_hidden([], "x") == ""
    assert about_hidden(["loss", "MB", "loss"], "--json").startswith("Columns without room here: loss, MB.")


@given(
    st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=60), min_size=1, max_size=4),
    st.integers(0, 6),
    st.text(st.sampled_from("ab c"), max_size=80),
    st.integers(80, 200),
)
def test_no_line_is_wider_than_the_terminal(labels, n_columns, note, width):
    for label in labels:
        for line in models(n_columns, note, label).text(width).splitlines():
            assert len(line) <= width


def test_a_long_note_goes_on_below_itself():
    lines = models(0, "not significant; in-sample for 1,000 of 2,000 rows").text(72).splitlines()
    assert len(lines) > 2
    start = lines[1].index("not")
    assert all(line.startswith(" " * start) for line in lines[2:])
    assert " ".join(line[start:].strip() for line in lines[1:]).endswith("of 2,000 rows")


def test_json_has_values_spreads_headings_and_notes():
    head = ["12 val rows", "samples F1", Unshown("micro F1"), "time", "way"]
    rows = [
        ["image:"][0],
        ["a", number(0.123456789, spread=0.1), number(float("nan")), duration(75.0), "-"],
        "text:",
        ["b", number(np.float32(0.5)), number(0.25), duration(None), Cell("2 x 3", [2, 3]), "best"],
    ]
    made = table(head, rows, title="12 val rows", first="model")
    assert "micro F1" not in str(made)
    assert str(made).splitlines()[1] == "image:"
    found = json.loads(json.dumps(made.as_json(), allow_nan=False))
    names = ["group", "model", "samples F1", "samples F1 ±", "micro F1", "time", "way", "note"]
    assert [column["name"] for column in found["columns"]] == names
    assert found["columns"][5]["unit"] == "s"
    assert found["rows"] == [
        ["image", "a", 0.123456789, 0.1, None, 75.0, None, None],
        ["text", "b", 0.5, None, 0.25, None, [2, 3], "best"],
    ]


def test_some_rows_in_text_are_all_in_json():
    made = table(["a", "b"], [["x", i] for i in range(9)], most=2)
    assert len(str(made).splitlines()) == 3
    assert [row[1] for row in made.as_json()["rows"]] == list(range(9))


def test_cells():
    assert (count(1234), count(None), signed(0.5), duration(75.0)) == ("1,234", "-", "+0.5000", "1:15")
    assert (number(1.5, 1), number(None, unknown=""), number(1.0, 2, spread=0.5)) == ("1.5", "", "1.00 ± 0.50")
    assert outside("\x1b" + "a" * 90).value == "\x1b" + "a" * 90
    assert outside("\x1b") == "\\x1b"
