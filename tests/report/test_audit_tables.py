"""Tables of an audit: plain text, cleanlab's columns, and a row for each sample whose labels are questioned."""

from __future__ import annotations

import csv
import io

import numpy as np

from mmfeat.audit.checks import AuditInput
from mmfeat.audit.findings import CheckResult, Finding, Summary
from mmfeat.report.audit_tables import audit_csv, check_table, review_columns, summary_table

GIVEN = AuditInput(
    ids=np.array(["1", "2", "=SUM(A1)"], object),
    labels=np.array([[1, 0], [1, 1], [-1, -1]], np.int8),
    split=np.array(["train", "val", "unlabelled"], object),
    classes=("dog", "cat"),
)
LABEL = Finding(check="label", id="1", score=0.1, class_name="dog", detail="a", given=("dog",), proposed=())
ABSENT = Finding(
    check="label", id="2", score=0.2, class_name="cat", detail="b", given=("dog",), proposed=("dog", "cat")
)
TWIN = Finding(check="near_duplicate", id="2", score=0.05, detail="c", related=("1", "=SUM(A1)"), given=("dog",))


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_skipped_checks_have_no_columns_and_formulas_are_escaped():
    results = {
        "label": CheckResult(findings=(LABEL,), scores=np.array([0.1, 0.9, np.nan])),
        "near_duplicate": CheckResult(findings=(TWIN,)),
        "outlier": CheckResult(skipped="needs embeddings"),
    }
    rows = rows_of(audit_csv(GIVEN, results, separator=" "))
    assert [row["id"] for row in rows] == ["1", "2", "'=SUM(A1)"]
    assert [row["is_label_issue"] for row in rows] == ["True", "False", "False"]
    assert [row["label_score"] for row in rows] == ["0.1", "0.9", ""]
    assert [row["near_duplicate_score"] for row in rows] == ["1", "0.05", "1"]
    assert [row["near_duplicate_sets"] for row in rows] == ["", "1; =SUM(A1)", ""]
    assert [row["given_label"] for row in rows] == ["dog", "dog cat", ""]
    assert not {"is_outlier_issue", "predicted_label"} & set(rows[0])


def test_the_table_to_review_has_one_row_for_each_sample_the_worst_first():
    findings = [
        ABSENT,
        LABEL,
        TWIN,
        Finding(
            check="label", id="2", score=0.3, class_name="dog", detail="d", given=("dog",), proposed=("dog", "cat")
        ),
    ]
    columns = review_columns(
        findings, {"1": "a.jpg", "2": ""}, {"1": "one", "2": "two"}, classes=("dog", "cat"), separator=" "
    )
    assert columns["id"] == ["1", "2"]
    assert columns["given"] == ["dog", "dog"]
    assert columns["model"] == ["-", "dog cat"]
    assert columns["why"] == ["a", "b; d"]
    assert columns["probabilities"] == ["dog (0.10)", "cat (0.80); dog (0.30)"]


def test_the_summary_says_why_a_check_was_skipped():
    text = str(
        summary_table(
            [
                Summary(check="label", title="label errors", n_findings=1234, n_samples=1000),
                Summary(check="outlier", title="outliers", skipped="needs embeddings"),
            ]
        )
    )
    assert "label errors      1,234   1,000" in text
    assert "skipped: needs embeddings" in text


def test_a_table_of_a_check_shows_numbers_and_escapes_names():
    assert check_table(Summary(check="label", title="label errors")) is None
    rows = ({"class": "\x1b[31mdog", "wrong_positives": 3, "difference": -0.00123},) * 20
    found = check_table(Summary(check="label", title="label errors", table=rows))
    assert "\\x1b[31mdog" in str(found)
    assert "wrong positives" in str(found)
    assert "-0.0012" in str(found)
    assert len(str(found).splitlines()) == 11
    assert len(found.as_json()["rows"]) == 20
