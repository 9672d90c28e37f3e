"""`mmfeat audit`: what may be wrong with the data, found on cached arrays by a registry of checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.audit.checks import Check, all_checks
from mmfeat.audit.findings import CheckResult, Finding, Summary
from mmfeat.common.errors import ConfigError, MmfeatError
from mmfeat.common.progress import progress
from mmfeat.common.text import counted, nearest, quoted
from mmfeat.data.review_table import review_bytes
from mmfeat.inference.review_queue import image_places, unreviewed
from mmfeat.project.audit_record import AuditRecord, write_audit
from mmfeat.project.project import Project
from mmfeat.report.audit_tables import audit_csv, review_columns
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult
from mmfeat.training.audit_inputs import Audited, audited

FILE, REVIEW = "audit.csv", "audit-review.csv"


@dataclass(frozen=True, kw_only=True, repr=False)
class AuditResult(TableResult):
    """The findings of an audit, and the files that hold them.

    Attributes
    ----------
    record : AuditRecord
        What audit.json holds: the summary of each check and all findings.
    file : Path
        One line for each row of the manifest, with cleanlab's column names.
    review : Path or None
        A table to fill in with the rows whose labels are questioned; None without any.
    n_review : int
        Its rows.
    run, chosen : str
        The run, and how it was selected; both empty without a run.
    folded : str
        The run of the out-of-fold predictions; empty without one.
    made : bool
        Whether that run was trained by this audit.
    failed : tuple of str
        Checks of `fail_on` with findings.
    notes : tuple of str
        What is missing, and what limits the results.
    """

    record: AuditRecord
    file: Path
    review: Path | None
    n_review: int
    n_rows: int
    run: str
    chosen: str
    folded: str
    made: bool
    failed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """What each check reports."""
        return self.record.summaries

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, by check, the worst first."""
        return self.record.findings

    def _about(self) -> str:
        return f"{counted(len(self.findings), 'finding')} in {counted(self.n_rows, 'row')}: {self.file}"

    def _table(self) -> list[Record]:
        return [
            {
                "check": one.title,
                "findings": one.n_findings,
                "rows": one.n_samples,
                "note": f"skipped: {one.skipped}" if one.skipped else "; ".join(one.lines),
            }
            for one in self.summaries
        ]


def audit(
    project: Project,
    run: str | None = None,
    *,
    fail_on: Sequence[str] = (),
    out: Path | str | None = None,
    overwrite: bool = False,
) -> AuditResult:
    """Look for label errors, near-duplicates, leakage, outliers and other problems of the data.

    Everything is computed from cached features. A run in folds, whose predictions never saw the label that they are
    compared with, is trained if there is none.

    Parameters
    ----------
    run : str, optional
        A run, or an encoder with its linear probe; the best run on val, if None.
    fail_on : sequence of str
        Names of checks; those with findings are named in the result.
    out : Path, optional
        The file to write; audit.csv in the project's folder, if None.
    overwrite : bool
        Whether to replace files that were changed since mmfeat wrote them.

    Raises
    ------
    ConfigError
        There is no such check, or a check of `fail_on` was skipped.
    RunError
        There is no such run.
    OutputError
        A file was changed since it was written.
    """
    checks = list(all_checks())
    _check_names(checks, fail_on)
    file = project.root / FILE if out is None else Path(out).expanduser()
    outputs, review = Outputs(project.config, overwrite=overwrite), project.root / REVIEW
    for path in (file, review):  # before any work
        outputs.check(path)
    found = audited(project, run)
    results = _run(checks, found)
    _refuse_skipped(results, fail_on)
    record = _record(checks, results, found)
    outputs.write(file, audit_csv(found.given, results, separator=project.config.data.separator))
    n_review = _write_review(project, record.findings, outputs, review)
    return AuditResult(
        record=write_audit(project, record),
        file=file,
        review=review if n_review else None,
        n_review=n_review,
        n_rows=found.given.n_samples,
        run=found.run,
        chosen=found.chosen,
        folded=found.folded,
        made=found.made,
        failed=tuple(name for name in fail_on if results[name].findings),
        notes=found.notes,
    )


def _check_names(checks: Sequence[Check], names: Sequence[str]) -> None:
    known = [check.name for check in checks]
    for name in names:
        if name not in known:
            raise ConfigError(f"no check {quoted(name)}.{nearest(name, known)} Use some of: {', '.join(known)}")


def _run(checks: Sequence[Check], found: Audited) -> dict[str, CheckResult]:
    results = {}
    with progress("checks", len(checks), "checks") as bar:
        for check in checks:
            try:
                results[check.name] = check.run(found.given)
            except MmfeatError as error:
                results[check.name] = CheckResult(skipped=str(error))
            bar.advance(note=check.title)
    return results


def _refuse_skipped(results: dict[str, CheckResult], names: Sequence[str]) -> None:
    """A check that was skipped has found nothing, which must not pass as no finding."""
    for name in names:
        if why := results[name].skipped:
            raise ConfigError(f"--fail-on {name}: the check was skipped: {why}")


def _record(checks: Sequence[Check], results: dict[str, CheckResult], found: Audited) -> AuditRecord:
    return AuditRecord(
        summaries=tuple(results[check.name].summary(check.name, check.title) for check in checks),
        findings=tuple(finding for result in results.values() for finding in result.findings),
        run=found.run,
        fingerprint=found.fingerprint,
    )


def _write_review(project: Project, findings: Sequence[Finding], outputs: Outputs, file: Path) -> int:
    """Write the table of rows whose labels are questioned and which are not in corrections.csv; its number of rows."""
    manifest = project.manifest
    asked = {finding.id for finding in findings if finding.proposed is not None}
    rows = [row for row, sample in enumerate(manifest.ids.tolist()) if sample in asked]
    rows = unreviewed(project, np.array(rows, dtype=np.int64))
    ids = manifest.ids[rows].tolist()
    fresh = set(ids)
    columns = review_columns(
        [finding for finding in findings if finding.id in fresh],
        dict(zip(ids, image_places(project, rows), strict=True)),
        dict(zip(ids, manifest.captions[rows].tolist(), strict=True)),
        classes=manifest.classes,
        separator=project.config.data.separator,
    )
    if ids or file.exists():  # an earlier table lists rows that are not questioned any more
        outputs.write(file, review_bytes(columns))
    return len(ids)
