"""One rule for cells that a spreadsheet might take as formulas, in every CSV file that mmfeat writes for people."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.csv_text import csv_text, harmless, unharmed
from mmfeat.metrics.metric_rows import metrics_of
from mmfeat.report.prediction_files import prediction_bytes

FORMULAS = ("=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "\nx", " =1", "'=1", "-")
NUMBERS = ("-0.5", "+1", "-1e5", "-.5", "-3.")


@given(st.text("=+-@' \t\r\n\uff1dx1.e", max_size=7))
def test_a_guarded_text_reads_back(text):
    assert unharmed(harmless(text)) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_guarded(text):
    assert harmless(text) == f"'{text}"
    (cell,) = next(csv.reader(io.StringIO(csv_text([text], []), newline="")))
    assert cell == f"'{text}"
    assert csv_text([text], [], guarded=False) != csv_text([text], [])


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay(text):
    assert harmless(text) == text
    assert csv_text(["x"], [[-0.5, -1, None, text]]) == f"x\n-0.5,-1,,{text}\n"


def rows_of(text: str | bytes) -> list[list[str]]:
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    return list(csv.reader(io.StringIO(text, newline="")))


CLASSES = ("=cat", "dog", "@x")


def is_guarded(text: str | bytes) -> bool:
    return not any(cell.startswith(("=", "@", "+")) for row in rows_of(text) for cell in row)


def figures():
    labels = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.int8)
    from mmfeat.metrics.decision_rule import DecisionRule

    return metrics_of(
        labels,
        np.where(labels == 1, 2.0, -2.0).astype(np.float32),
        DecisionRule(threshold=0.5, empty="most-probable", temperature=1.0),
    )


@pytest.mark.parametrize("label_column", ["labels", "=labels", ["=cat", "dog", "@x"]])
@pytest.mark.parametrize("top_k", [0, 2])
def test_predictions(label_column, top_k):
    ids, probs = ["=1", "b"], np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9]], np.float32)
    predicted = (probs > 0.5).astype(np.int8)
    given = {"label_column": label_column, "top_k": top_k, "predicted": predicted, "classes": CLASSES}
    args = ("csv", ids, probs)
    assert is_guarded(prediction_bytes(*args, **given))
    assert [unharmed(row[0]) for row in rows_of(prediction_bytes(*args, **given))[1:]] == ids
    letter = rows_of(prediction_bytes(*args, **given, guarded=False))  # as a submission has to be
    assert [row[0] for row in letter[1:]] == ids


def test_evaluations():
    from mmfeat.report.evaluation_table import class_table

    table = rows_of(class_table(figures(), CLASSES))
    assert is_guarded(class_table(figures(), CLASSES))
    assert [unharmed(row[0]) for row in table[1:]] == list(CLASSES)


def test_comparisons():
    from mmfeat.report.comparison_table import ComparisonTable

    for label in ("=model", "@m=w.pth"):
        model = SimpleNamespace(metrics=figures(), label=label, trained=None)
        layout = SimpleNamespace(class_columns=(("{label}", "class_f1"),))
        table = ComparisonTable(title="", models=[model], baselines=[], classes=CLASSES, layout=layout)
        assert is_guarded(table.classes_csv())


def test_rounds_and_sweeps(tmp_path, monkeypatch):
    from mmfeat.report import round_table as rounds
    from mmfeat.report.sweep_table import sweep_csv
    from mmfeat.runs.sweep import SweptCell

    monkeypatch.setattr(rounds, "plot_rounds", lambda *_, **__: None)
    rounds.write_rounds(tmp_path, [], classes=[f"{name}" for name in CLASSES], metric="map")
    assert is_guarded((tmp_path / "rounds.csv").read_bytes())
    cell = SweptCell(name="linear", values={"synonyms": "=x.txt"}, fits=[{"error": "-x: diverged"}])
    assert is_guarded(sweep_csv([cell], "map"))


def test_reviews():
    from mmfeat.data.review_table import review_bytes

    assert is_guarded(review_bytes({"id": ["=1"], "caption": ["@x"], "model": ["-2+3"]}))


def test_only_one_module_writes_csv_for_people():
    """Others write what has to stay to the letter: corrections, groups, and the demo's source."""
    from pathlib import Path

    import mmfeat

    root = Path(mmfeat.__file__).parent
    writers = {
        p.relative_to(root).as_posix() for p in root.rglob("*.py") if "csv.writer(" in p.read_text(encoding="utf-8")
    }
    assert writers == {
        "common/csv_text.py",
        "data/corrections.py",
        "data/duplicate_groups.py",
        "data/demo_data.py",
    }
