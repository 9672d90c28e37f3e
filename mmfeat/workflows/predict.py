"""`mmfeat predict`: labels in the source's own names, and probabilities."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.errors import DataError
from mmfeat.files import atomic_path, write_atomic
from mmfeat.labels import decide, label_cells, sigmoid
from mmfeat.workflows.project import Project
from mmfeat.workflows.runs import best_run
from mmfeat.workflows.scoring import run_source
from mmfeat.workflows.standing import find_run


@dataclass(frozen=True)
class PredictResult:
    """What was written.

    Attributes
    ----------
    n_empty : int
        Rows where nothing passed the threshold.
    n_unknown : int
        Rows without any feature: neither picture nor caption could be read.
    chosen : str
        How the run was chosen; empty where it was named.
    """

    run: str
    chosen: str
    files: tuple[Path, Path]
    n_rows: int
    n_empty: int
    n_unknown: int


def predict(project: Project, run_name: str | None = None, split: str = "unlabelled") -> PredictResult:
    """Predict the labels of rows by a run, the best on val when none is named.

    Writes `submission.csv` (columns as in the source) for the unlabelled rows of a Kaggle task, else
    `predictions.csv`; and `predictions.parquet` with the probability of each class.

    Raises
    ------
    DataError
        There are no such rows.
    """
    manifest = project.manifest
    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to predict. Use: --split val, train, test, unlabelled or all")
    run = find_run(project, run_name) if run_name else best_run(project)
    found = run_source(project, run, rows)
    probs = sigmoid(found.logits)
    rule = project.config.predict
    decided = decide(probs, rule.threshold, rule.empty)
    data = project.config.data
    kaggle = (project.config.path(data.source) / "train.csv").is_file() and split == "unlabelled"
    table = project.root / ("submission.csv" if kaggle else "predictions.csv")
    header, cells = label_cells(decided, manifest.classes, manifest.columns["labels"], data.separator)
    write_atomic(table, _csv(manifest.ids[rows], cells, [manifest.columns["id"] or "id", *header]))
    parquet = project.root / "predictions.parquet"
    _write_probabilities(parquet, manifest.ids[rows], probs, manifest.classes, run.name)
    n_empty = int((probs <= rule.threshold).all(1).sum())
    chosen = (
        "" if run_name else "the best on val" if len(manifest.rows("val")) else "the newest: no val row to choose by"
    )
    return PredictResult(run.name, chosen, (table, parquet), len(rows), n_empty, int((~found.known).sum()))


def _csv(ids: np.ndarray, cells: list[list[str]], header: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([i, *row] for i, row in zip(ids, cells, strict=True))
    return text.getvalue()


def _write_probabilities(path: Path, ids: np.ndarray, probs: np.ndarray, classes: tuple[str, ...], run: str) -> None:
    """One column for each class, named as the class, beside `id`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": pa.array([str(i) for i in ids]),
        **{f"p_{c}": pa.array(probs[:, k]) for k, c in enumerate(classes)},
    }
    table = pa.table(columns).replace_schema_metadata({"mmfeat_run": run})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
