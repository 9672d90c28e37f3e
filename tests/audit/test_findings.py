"""Findings and summaries as JSON."""

from __future__ import annotations

import json

from mmfeat.audit.findings import FINDINGS, SUMMARIES, CheckResult, Finding, Summary
from mmfeat.common.json_shapes import misfit

FULL = Finding(
    check="label",
    id="7",
    score=0.25,
    class_name="dog",
    detail="dog is given, the model says 0.01",
    related=("8", "9"),
    given=("dog",),
    proposed=(),
)


def test_a_finding_returns_from_json_as_it_was():
    for finding in (FULL, Finding(check="odd", id="<script>\x1b[1m", score=1.0), Finding(check="a", id="", score=0)):
        values = json.loads(json.dumps(finding.as_json()))
        assert Finding.of_json(values) == finding
        assert not misfit([values], FINDINGS)


def test_no_labels_and_unknown_labels_are_different_things():
    assert "given" not in Finding(check="a", id="1", score=0).as_json()
    assert FULL.as_json()["proposed"] == []


def test_keys_of_newer_versions_are_ignored():
    assert Finding.of_json({**FULL.as_json(), "colour": "red"}) == FULL


def test_a_score_outside_of_its_range_does_not_fit():
    assert "score is 2" in misfit([{**FULL.as_json(), "score": 2}], FINDINGS)
    assert "proposed is 'dog'" in misfit([{**FULL.as_json(), "proposed": "dog"}], FINDINGS)


def test_a_summary_counts_samples_once_and_returns_from_json_as_it_was():
    found = CheckResult(findings=(FULL, FULL, Finding(check="label", id="9", score=0)), lines=("3 labels",))
    summary = found.summary("label", "label errors")
    assert (summary.n_findings, summary.n_samples) == (3, 2)
    values = json.loads(json.dumps(summary.as_json()))
    assert Summary.of_json(values) == summary
    assert not misfit([values], SUMMARIES)
