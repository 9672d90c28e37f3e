"""audit.json: what is written returns, damage is seen, and an audit of other data is stale."""

from __future__ import annotations

import pytest

from mmfeat.audit.findings import Finding, Summary
from mmfeat.common.errors import DataError
from mmfeat.project.audit_record import FILE, AuditRecord, read_audit, write_audit
from mmfeat.project.project import Project

FINDINGS = (
    Finding(check="label", id="1", score=0.1, class_name="dog", given=("dog",), proposed=()),
    Finding(check="outlier", id="2", score=0.2),
)
RECORD = AuditRecord(summaries=(Summary(check="label", title="label errors", n_findings=1),), findings=FINDINGS)


def test_a_project_without_an_audit_has_no_record(project):
    assert read_audit(project) is None


def test_what_is_written_returns(project):
    written = write_audit(project, RECORD)
    assert written.created.endswith("Z")
    assert read_audit(project) == written
    assert read_audit(project).stale == ""
    assert written.of("outlier") == [FINDINGS[1]]
    assert written.summary("label").n_findings == 1
    assert written.summary("leakage") is None


def test_a_changed_byte_is_one_line_that_says_what_to_type(project):
    write_audit(project, RECORD)
    file = project.root / FILE
    file.write_text(file.read_text().replace('"dog"', '"cat"'))
    with pytest.raises(DataError, match=r"audit\.json: damaged: .*Run: mmfeat audit$"):
        read_audit(project)


def test_a_record_of_a_newer_version_is_refused(project, monkeypatch):
    monkeypatch.setattr("mmfeat.project.audit_record.FORMAT", 2)
    write_audit(project, RECORD)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has format 2"):
        read_audit(project)


def test_an_audit_of_another_manifest_is_stale(project):
    write_audit(project, RECORD)
    labels = project.manifest.labels.copy()
    labels[0] = 1 - labels[0]
    project.derived(manifest=type(project.manifest)(**{**vars(project.manifest), "labels": labels})).manifest.save(
        project.root / "manifest.parquet"
    )
    assert read_audit(Project(project.root)).stale == "the manifest has changed since"


def test_an_audit_by_a_run_that_was_made_again_is_stale(own):
    run = AuditRecord(summaries=(), findings=(), run="concat-1", fingerprint="another")
    write_audit(own, run)
    assert read_audit(own).stale in ("concat-1 was made again", "concat-1 is gone")
    write_audit(own, AuditRecord(summaries=(), findings=(), run="text"))
    assert read_audit(own).stale == ""
