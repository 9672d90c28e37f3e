"""The split of each row: by shares, or as the data bring it. Rows of earlier manifests keep theirs where nothing else is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmfeat.common.labels import UNLABELLED, has_label, rows_of
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.given_split import GivenSplit
from mmfeat.data.groups import SPLITS, Groups
from mmfeat.data.images.copies import groups_with_copies
from mmfeat.data.row_keys import RowKeys
from mmfeat.data.splits import make_splits
from mmfeat.project.project_folder import MANIFEST


@dataclass(frozen=True, eq=False, kw_only=True)
class AssignedSplits:
    """The split of each row.

    Attributes
    ----------
    split : np.ndarray
        `(N,)` object of `train`, `val`, `test`.
    lines : list of str
        Lines about rows that could not be assigned as wanted.
    origin : str
        Where the split comes from, if the data bring it.
    """

    split: np.ndarray
    lines: list[str] = field(default_factory=list)
    origin: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class UnsplitRows:
    """The rows to split.

    Attributes
    ----------
    labels : np.ndarray
        `(N, K)` int8. A row that the user gives as `unlabelled` has only -1.
    groups : list of str
        The group of each row in the source; empty without one.
    before : list of str or None
        The earlier split of each labelled row; empty without one. None without an earlier manifest.
    merged : sequence of str or None
        The groups merged with those of groups.csv; None without that file.
    """

    ids: Sequence[str]
    labels: np.ndarray
    row_keys: RowKeys
    groups: Sequence[str]
    before: list[str] | None
    merged: Sequence[str] | None = None


def by_shares(config: Config, rows: UnsplitRows) -> AssignedSplits:
    """Assign a split to rows without one by the shares of `[split]`. If no row is val, val rows are taken from train.

    Only new rows become test.
    """
    groups, known = groups_with_copies(rows.row_keys, rows.groups, rows.before, merged=rows.merged)
    shares = {"val": config.split.val, "test": config.split.test}
    return _by_shares(config, rows, groups, shares=shares, known=known)


def as_given(config: Config, rows: UnsplitRows, given: GivenSplit) -> AssignedSplits:
    """Assign the split that the user gives, whatever the groups are. An unlabelled row joins its group.

    If no row is given as val, `[split] val` is the share of val rows among those that are given as train; test likewise.
    """
    labelled = has_label(rows.labels)
    wanted = np.where(labelled & (given.names != UNLABELLED), given.names, "").astype(object)
    shares = {"val": config.split.val, "test": config.split.test}
    missing = [name for name, share in shares.items() if share and not (wanted == name).any()]
    known = _known(rows, labelled, wanted, missing)
    sides = np.where(np.isin(known, ("val", "test")) & ~np.isin(known, missing), known, "train").astype(object)
    sides[~labelled] = ""
    groups, found = groups_with_copies(rows.row_keys, rows.groups, known.tolist(), merged=rows.merged)
    groups, sides = groups.parted(sides.tolist())
    joined = np.array(found, dtype=object)
    at = ~labelled & np.isin(sides, ("val", "test"))
    joined[at] = sides[at]
    shares = {name: share if name in missing else 0.0 for name, share in shares.items()}
    some = _by_shares(config, rows, groups, shares=shares, known=joined.tolist())
    taken = [name for name in missing if (some.split[labelled] == name).any()]
    origin = given.text + (f"; {' and '.join(taken)} taken from train, stratified, seed {config.seed}" if taken else "")
    return AssignedSplits(split=some.split, lines=[*_about_given(rows, given, some.split), *some.lines], origin=origin)


def _known(rows: UnsplitRows, labelled: np.ndarray, wanted: np.ndarray, missing: list[str]) -> np.ndarray:
    """The split of each row before shares are dealt, `(N,)` object; empty for a row to deal, and for unlabelled rows.

    A row that is given as train may be a val or test row that was taken from train earlier, if the data bring none.
    """
    before = np.array(rows.before if rows.before is not None else [""] * len(labelled), dtype=object)
    train = wanted == "train"
    known = np.where(np.isin(wanted, ("val", "test")), wanted, "").astype(object)
    known[train] = np.where(np.isin(before, ["train", "", *missing]), before, "train")[train]
    blank = labelled & (wanted == "")
    known[blank] = before[blank]
    if not missing:
        known[labelled & (known == "")] = "train"
    return known


def _about_given(rows: UnsplitRows, given: GivenSplit, split: np.ndarray) -> list[str]:
    """Lines about rows whose given split could not be used as it is."""
    labelled, lines = has_label(rows.labels), []
    blank = labelled & (given.names == "")
    if blank.any():
        where = ", ".join(f"{n:,} {name}" for name in SPLITS if (n := int((split[blank] == name).sum())))
        lines.append(f"  {counted(int(blank.sum()), 'labelled row')} without a split in {given.origin}: {where}")
    idle = int((~labelled & np.isin(given.names, ("val", "test"))).sum())
    if idle:
        lines.append(f"  {counted(idle, 'row')} of val or test in {given.origin} without labels: unlabelled")
    return lines


def _by_shares(
    config: Config, rows: UnsplitRows, groups: Groups, *, shares: dict[str, float], known: list[str] | None
) -> AssignedSplits:
    ids, labels, lines = rows.ids, rows.labels, []
    split = make_splits(ids, labels, groups, shares=shares, seed=config.seed, known=known)
    if known is None or not any(known):
        return AssignedSplits(split=split)
    if shares["val"] and "val" not in known and rows.before is not None:
        free = ~has_label(labels) | (np.array(known, dtype=object) == "train")
        first = np.where(free, "", split).tolist()
        split = make_splits(ids, labels, groups, shares={"val": shares["val"]}, seed=config.seed, known=first)
    if shares["test"] and not len(rows_of(labels, split, "test")):
        lines.append(
            f"  No row is test, although [split] test = {shares['test']:g}: train and val rows never become test. To split again, "
            f"remove {MANIFEST} (earlier runs are then not ranked) and run: mmfeat init"
        )
    return AssignedSplits(split=split, lines=lines)
