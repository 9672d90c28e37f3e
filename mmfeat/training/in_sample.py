"""In-sample figures: the training rows that they are computed on, and an encoder's logits of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mmfeat.common.randomness import id_numbers
from mmfeat.encoders.resolve import Identity
from mmfeat.inference.logits import RowLogits, probe_logits
from mmfeat.project.encoding import encode_missing
from mmfeat.project.project import Project
from mmfeat.store import FeatureStore

IN_SAMPLE = 2000  # training rows at most


def train_sample(project: Project, present: np.ndarray | None = None) -> np.ndarray:
    """Up to `IN_SAMPLE` training rows, selected and ordered by their ids alone; only those that are `present`, if given."""
    rows = project.manifest.rows("train")
    rows = rows if present is None else rows[present[rows]]
    return rows[np.argsort(id_numbers(project.manifest.ids[rows]), kind="stable")[:IN_SAMPLE]]


def logits_in_passing(project: Project, identity: Identity, rows: np.ndarray, scratch: Path) -> RowLogits:
    """Logits of rows by an encoder's linear probe, in the order of `rows`; the embeddings are not kept.

    Parameters
    ----------
    scratch : Path
        A folder for the embeddings, which is removed.
    """
    passing = project.derived(store=FeatureStore(scratch, project.store.dtype))
    try:
        encode_missing(passing, identity, rows)
        return cached_logits(passing, identity, rows)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cached_logits(project: Project, identity: Identity, rows: np.ndarray) -> RowLogits:
    """Logits of rows by an encoder's linear probe from cached embeddings, in the order of `rows`."""
    table = project.table_of({identity.name: (identity.spec, None)}, rows)
    return probe_logits(project, table, identity.name, output=project.output(identity), rows=rows)
