"""Build the manifest of a source: apply corrections, group rows, split them, and report it in a few lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import UNLABELLED, has_label
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.corrections import FILE, Corrected, corrected
from mmfeat.data.difference import same_rows
from mmfeat.data.duplicate_groups import FILE as GROUPS
from mmfeat.data.duplicate_groups import merged_groups, read_groups
from mmfeat.data.given_split import GivenSplit, given_split
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import RowKeys
from mmfeat.data.tables.readers import Source
from mmfeat.project.assigned_splits import UnsplitRows, as_given, by_shares
from mmfeat.report.data_summary import about_corrections


@dataclass(frozen=True, eq=False, kw_only=True)
class BuiltManifest:
    """The manifest of a source.

    Attributes
    ----------
    lines : list of str
        Lines about its corrections and splits.
    split : str
        Where the split comes from, if the data bring it.
    """

    manifest: Manifest
    lines: list[str]
    split: str


def build_manifest(config: Config, data: Source, row_keys: RowKeys, before: Manifest | None) -> BuiltManifest:
    """The manifest of a source.

    Parameters
    ----------
    before : Manifest, optional
        The existing manifest. Its labelled rows keep their split, unless the data bring another one.

    Raises
    ------
    DataError
        No row has a label, a correction or groups.csv is wrong, rows of one group have different splits, or the split that the data
        bring cannot be used.
    """
    found = corrected(data, config.root / FILE, config.data.separator, closed=bool(config.data.classes))
    if not found.classes:
        raise DataError(f"{config.root / FILE}: leaves no row with a label, so there is nothing to train on")
    given = given_split(config, data)
    labels, lines = _visible_labels(found, given)
    if not has_label(labels).any():
        raise DataError(f"{config.data.source}: no labelled row. Name the column: --labels COLUMN")
    known = _earlier_splits(before, data) if before is not None else None
    near = read_groups(config.root / GROUPS, data.ids)
    merged = merged_groups(data.groups, near) if near is not None else None
    rows = UnsplitRows(ids=data.ids, labels=labels, row_keys=row_keys, groups=data.groups, before=known, merged=merged)
    assigned = by_shares(config, rows) if given is None else as_given(config, rows, given)
    texts = {name: np.array(getattr(data, name), dtype=object) for name in ("ids", "images", "captions")}
    manifest = Manifest(
        **texts,
        labels=labels,
        split=assigned.split,
        classes=found.classes,
        columns=data.columns,
        groups=merged if merged is not None else _own_groups(data),
        folds=given.folds if given else None,
    )
    lines = [*about_corrections(found, data.classes), *_about_groups(near), *lines, *assigned.lines]
    return BuiltManifest(manifest=manifest, lines=lines, split=assigned.origin)


def _own_groups(data: Source) -> np.ndarray | None:
    return np.array(data.groups, dtype=object) if data.columns.get("group") else None


def _about_groups(near: np.ndarray | None) -> list[str]:
    """A line about groups.csv, if there is one."""
    if near is None:
        return []
    named = near[near != ""]
    return [f"  {GROUPS}   {counted(len(named), 'row')} in {counted(len(set(named.tolist())), 'group')}"]


def _visible_labels(found: Corrected, given: GivenSplit | None) -> tuple[np.ndarray, list[str]]:
    """Labels `(N, K)` without those of rows that are given as unlabelled, and a line about these rows."""
    if given is None:
        return found.labels, []
    hidden = (given.names == UNLABELLED) & has_label(found.labels)
    hidden[found.rows] = False  # a person has labelled them since
    if not hidden.any():
        return found.labels, []
    labels = found.labels.copy()
    labels[hidden] = -1
    n = int(hidden.sum())
    what = f"{counted(n, 'row')} with labels {'is' if n == 1 else 'are'} unlabelled {given.text}"
    return labels, [f"  {what}: {'its' if n == 1 else 'their'} labels are not used"]


def _earlier_splits(before: Manifest, data: Source) -> list[str]:
    """The split of each row in the existing manifest; empty for rows that were unlabelled or not there."""
    labelled = has_label(before.labels)
    rows = same_rows(before.ids, np.array(data.ids, dtype=object))
    return [str(before.split[row]) if row >= 0 and labelled[row] else "" for row in rows.tolist()]
