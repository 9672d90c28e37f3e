"""Build the manifest of a source: apply corrections, group rows, split them, and report it in a few lines."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import has_label, rows_of
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.corrections import FILE, corrected
from mmfeat.data.difference import same_rows
from mmfeat.data.groups import Groups
from mmfeat.data.images.copies import groups_with_copies
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import RowKeys
from mmfeat.data.splits import make_splits
from mmfeat.data.tables.readers import Source
from mmfeat.project.project_folder import MANIFEST
from mmfeat.report.data_summary import about_corrections


def build_manifest(
    config: Config, data: Source, row_keys: RowKeys, before: Manifest | None
) -> tuple[Manifest, list[str]]:
    """The manifest of a source, and lines about its corrections and splits.

    Parameters
    ----------
    before : Manifest, optional
        The existing manifest. Its labelled rows keep their split.

    Raises
    ------
    DataError
        No row has a label, a correction is wrong, or rows of one group have different splits.
    """
    found = corrected(data, config.root / FILE, config.data.separator, closed=bool(config.data.classes))
    if not found.classes:
        raise DataError(f"{config.root / FILE}: leaves no row with a label, so there is nothing to train on")
    if not has_label(found.labels).any():
        raise DataError(f"{config.data.source}: no labelled row. Name the column: --labels COLUMN")
    known = None
    if before is not None:
        labelled = has_label(before.labels)
        rows = same_rows(before.ids, np.array(data.ids, dtype=object))
        known = [str(before.split[row]) if row >= 0 and labelled[row] else "" for row in rows.tolist()]
    groups, known = groups_with_copies(row_keys, data.groups, known)
    split, notes = _split(config, data.ids, found.labels, groups=groups, known=known)
    texts = {name: np.array(getattr(data, name), dtype=object) for name in ("ids", "images", "captions")}
    named = np.array(data.groups, dtype=object) if data.columns.get("group") else None
    manifest = Manifest(
        **texts, labels=found.labels, split=split, classes=found.classes, columns=data.columns, groups=named
    )
    return manifest, about_corrections(found, data.classes) + notes


def _split(
    config: Config, ids: list[str], labels: np.ndarray, *, groups: Groups, known: list[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Assign a split to rows without one. If no row is val, take val rows from train. Only new rows become test."""
    shares, notes = dataclasses.asdict(config.split), []
    split = make_splits(ids, labels, groups, shares=shares, seed=config.seed, known=known)
    if known is None or not any(known):
        return split, notes
    if shares["val"] and "val" not in known:
        free = ~has_label(labels) | (np.array(known, dtype=object) == "train")
        first = np.where(free, "", split).tolist()
        split = make_splits(ids, labels, groups, shares={"val": shares["val"]}, seed=config.seed, known=first)
        moved = int((split[np.array(known, dtype=object) == "train"] == "val").sum())
        if moved:
            notes.append(
                f"  {counted(moved, 'row')} moved from train to val. "
                f"Checkpoints and runs were trained on {'it' if moved == 1 else 'them'}. Train again, starting with: mmfeat finetune"
            )
    if shares["test"] and not len(rows_of(labels, split, "test")):
        notes.append(
            f"  No row is test, although [split] test = {shares['test']:g}: train and val rows never become test. To split again, "
            f"remove {MANIFEST} (earlier runs are then not ranked) and run: mmfeat init"
        )
    return split, notes
