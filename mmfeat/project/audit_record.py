"""The record of the last audit, audit.json in the project's folder: sealed, and with the reason why it is out of date."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.audit.findings import FINDINGS, SUMMARIES, Finding, Summary
from mmfeat.common.errors import DataError, RunError
from mmfeat.common.files import digest_file
from mmfeat.common.json_shapes import Shape
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.common.text import utc_time
from mmfeat.project.named_models import find_model
from mmfeat.project.project import Project
from mmfeat.project.project_folder import MANIFEST
from mmfeat.project.staleness import stale_because

FILE, FORMAT = "audit.json", 1
_SHAPE: dict[str, Shape] = {
    "created": str,
    "manifest": str,
    "run": str,
    "fingerprint": str,
    "summaries": SUMMARIES,
    "findings": FINDINGS,
}


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """The results of an audit.

    Attributes
    ----------
    summaries : tuple of Summary
        What each check reports, in the order of the checks. Their tables hold the estimates by class (check `label`) and
        the metrics without leaked rows (check `leakage`).
    findings : tuple of Finding
        By check, the worst first.
    run : str
        The run or encoder whose predictions were used; empty without one.
    fingerprint : str
        The fingerprint of that run; empty for an encoder or without one.
    created : str
        The time in UTC: `2026-01-31T12:00:00.000000000Z`. Set by `write_audit`.
    manifest : str
        The digest of manifest.parquet. Set by `write_audit`.
    stale : str
        Why the record is out of date, as a clause; empty if it is current. Set by `read_audit`.
    """

    summaries: tuple[Summary, ...]
    findings: tuple[Finding, ...]
    run: str = ""
    fingerprint: str = ""
    created: str = ""
    manifest: str = ""
    stale: str = ""

    def of(self, check: str) -> list[Finding]:
        """The findings of one check, the worst first."""
        return [finding for finding in self.findings if finding.check == check]

    def summary(self, check: str) -> Summary | None:
        """What a check reports; None if it is not in the record."""
        return next((one for one in self.summaries if one.check == check), None)


def audit_file(project: Project) -> Path:
    """The file of the record."""
    return project.root / FILE


def write_audit(project: Project, record: AuditRecord) -> AuditRecord:
    """Write the record, sealed, and return it with its time and the digest of the manifest."""
    record = dataclasses.replace(
        record, created=utc_time(time.time_ns()), manifest=digest_file(project.root / MANIFEST), stale=""
    )
    write_sealed(audit_file(project), {"format": FORMAT, **_as_json(record)})
    return record


def read_audit(project: Project) -> AuditRecord | None:
    """The record of the last audit, and why it is out of date; None if the project has none.

    Raises
    ------
    DataError
        The file is damaged or was written by a newer mmfeat.
    """
    try:
        values = read_record(audit_file(project), FORMAT, _SHAPE, "Run: mmfeat audit")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(str(error)) from None
    return AuditRecord(
        summaries=tuple(map(Summary.of_json, values["summaries"])),
        findings=tuple(map(Finding.of_json, values["findings"])),
        run=values["run"],
        fingerprint=values["fingerprint"],
        created=values["created"],
        manifest=values["manifest"],
        stale=_stale_because(project, values),
    )


def _as_json(record: AuditRecord) -> dict[str, Any]:
    return {
        "created": record.created,
        "manifest": record.manifest,
        "run": record.run,
        "fingerprint": record.fingerprint,
        "summaries": [one.as_json() for one in record.summaries],
        "findings": [one.as_json() for one in record.findings],
    }


def _stale_because(project: Project, values: dict[str, Any]) -> str:
    """Why a record is out of date; empty if the manifest and the run are those of the audit."""
    if digest_file(project.root / MANIFEST) != values["manifest"]:
        return "the manifest has changed since"
    if not values["run"]:
        return ""
    try:
        model = find_model(project, values["run"])
    except RunError:
        return f"{values['run']} is gone"
    if model.run is None:
        return ""
    if model.run.record["fingerprint"] != values["fingerprint"]:
        return f"{values['run']} was made again"
    why = stale_because(project, model.run)
    return f"{values['run']} is stale: {why}" if why else ""
