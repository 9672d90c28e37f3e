"""`mmfeat evaluate`: every figure of some runs on the same rows, a table for each class, and whether two differ."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.errors import DataError, RunError
from mmfeat.files import write_atomic
from mmfeat.metrics import paired_difference
from mmfeat.models.figures import Figures, figures_of
from mmfeat.workflows.hints import after_evaluate
from mmfeat.workflows.project import Project
from mmfeat.workflows.runs import best_run
from mmfeat.workflows.scoring import source
from mmfeat.workflows.standing import learned_by


@dataclass(frozen=True)
class EvaluateResult:
    """Figures by name, on the same rows.

    Attributes
    ----------
    difference : (float, float, float) or None
        Only for two names: the paired difference of samples-F1 (first minus second), and its 95 % interval.
    trained : dict of str to list of str
        By name, the ids of the rows that it was trained on.
    n_chosen : dict of str to int
        By name, how many of the rows chose its epochs or rounds.
    files : list of Path
        One table of classes for each name.
    after : str
        The command to type next.
    """

    split: str
    n_rows: int
    figures: dict[str, Figures]
    difference: tuple[float, float, float] | None
    trained: dict[str, list[str]]
    n_chosen: dict[str, int]
    files: list[Path]
    classes: tuple[str, ...]
    after: str


def evaluate(project: Project, names: list[str] | None = None, split: str = "val") -> EvaluateResult:
    """Score encoders and runs on labelled rows.

    Parameters
    ----------
    names : list of str, optional
        Runs or encoders; the best run, when None.
    split : str
        `val`, `test`, or `train`.

    Raises
    ------
    DataError
        The split has no labelled rows.
    RunError
        A name is given twice, or there is no such run.
    """
    manifest = project.manifest
    names = names or [best_run(project).name]
    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(
            f"there are no labelled {split} rows. Set [split] {split} in mmfeat.toml before the first: mmfeat init"
        )
    if len(set(names)) != len(names):
        raise RunError(f"each name once, found: {', '.join(names)}")
    figures, trained, n_chosen, files = {}, {}, {}, []
    for name in names:
        logits = source(project, name, rows).logits
        figures[name] = figures_of(manifest.labels[rows], logits, project.config.predict)
        on, by = learned_by(project, name).among(manifest.ids[rows])
        trained[name], n_chosen[name] = manifest.ids[rows[on]].tolist(), int(by.sum())
        of_encoder = name in project.config.encoder
        path = project.runs / (f"evaluation-{name}-{split}.csv" if of_encoder else f"{name}/evaluation-{split}.csv")
        write_atomic(path, class_table(figures[name], manifest.classes))
        files.append(path)
    difference = None
    if len(names) == 2:
        a, b = (figures[name].rows_f1 for name in names)
        difference = paired_difference(a, b)
    return EvaluateResult(
        split, len(rows), figures, difference, trained, n_chosen, files, manifest.classes,
        after_evaluate(project, split),
    )  # fmt: skip


def class_table(figures: Figures, classes: tuple[str, ...]) -> str:
    """CSV text: for each class its positives, F1, precision, recall, average precision and accuracy.

    Figures of a class without a positive among the rows are blank.
    """
    scores = figures.scores
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("f1", "precision", "recall", "ap", "accuracy")
    writer.writerow(["class", "n_positives", *names])
    columns = [getattr(scores, f"class_{name}") for name in names]
    for k, label in enumerate(classes):
        kept = scores.n_positives[k] > 0
        cells = [f"{column[k]:.6f}" if kept and np.isfinite(column[k]) else "" for column in columns]
        writer.writerow([label, int(scores.n_positives[k]), *cells])
    return text.getvalue()
