"""`mmfeat audit --apply groups`: near-duplicates of the last audit become groups, which `mmfeat init` keeps in one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfeat.audit.findings import Finding
from mmfeat.common.errors import DataError
from mmfeat.common.files import digest_file
from mmfeat.common.text import counted
from mmfeat.data.duplicate_groups import FILE, groups_text
from mmfeat.project.audit_record import read_audit
from mmfeat.project.project import Project
from mmfeat.project.project_folder import MANIFEST
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult

CHECK = "near_duplicate"


@dataclass(frozen=True, kw_only=True, repr=False)
class AppliedGroups(TableResult):
    """The groups that were written to groups.csv.

    Attributes
    ----------
    clusters : tuple of tuple of str
        The ids of each group.
    n_torn : int
        Groups with rows in several splits: rows that have a split keep it.
    changed : bool
        Whether the file changed.
    file : Path
        groups.csv.
    """

    clusters: tuple[tuple[str, ...], ...]
    n_torn: int
    changed: bool
    file: Path

    @property
    def n_rows(self) -> int:
        """Rows in groups."""
        return sum(map(len, self.clusters))

    def _about(self) -> str:
        return f"{counted(self.n_rows, 'row')} in {counted(len(self.clusters), 'group')}: {self.file}"

    def _table(self) -> list[Record]:
        return [{"id": sample, "group": cluster[0]} for cluster in self.clusters for sample in cluster]


def apply_groups(project: Project, *, overwrite: bool = False) -> AppliedGroups:
    """Write the clusters of near-duplicate images of the last audit to groups.csv in the project.

    Parameters
    ----------
    overwrite : bool
        Whether to replace a groups.csv that was changed since mmfeat wrote it.

    Raises
    ------
    DataError
        There is no audit, it is out of date, or it did not look for near-duplicates.
    OutputError
        groups.csv was changed since it was written.
    """
    record, root = read_audit(project), project.root
    if record is None:
        raise DataError(f"{root}: no audit yet. Run: mmfeat audit")
    if record.manifest != digest_file(root / MANIFEST):
        raise DataError(f"{root}: the manifest has changed since the audit. Run: mmfeat audit")
    summary = record.summary(CHECK)
    if summary is None or summary.skipped:
        why = f": {summary.skipped}" if summary else ""
        raise DataError(f"{root}: the audit did not look for near-duplicates{why}")
    clusters = _clusters(record.of(CHECK), project.manifest.ids.tolist())
    file = root / FILE
    changed = Outputs(project.config, overwrite=overwrite).write(file, groups_text(clusters), own=True)
    split = dict(zip(project.manifest.ids.tolist(), project.manifest.split.tolist(), strict=True))
    n_torn = sum(len({split[sample] for sample in cluster}) > 1 for cluster in clusters)
    return AppliedGroups(clusters=clusters, n_torn=n_torn, changed=changed, file=file)


def _clusters(findings: Sequence[Finding], ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Ids that are connected by findings, in the order of the manifest."""
    beside: dict[str, set[str]] = {}
    for finding in findings:
        for other in finding.related:
            beside.setdefault(finding.id, set()).add(other)
            beside.setdefault(other, set()).add(finding.id)
    place, clusters = {sample: row for row, sample in enumerate(ids)}, []
    for sample in ids:
        if sample not in beside:
            continue
        cluster = [sample]
        for one in cluster:  # the list grows
            cluster += beside.pop(one, set()) - set(cluster)
        clusters.append(tuple(sorted(cluster, key=place.__getitem__)))
    return tuple(clusters)
