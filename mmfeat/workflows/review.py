"""`mmfeat review`: a table of the rows whose labels are most worth checking, for a person to fill in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.files import bytes_of
from mmfeat.common.labels import decide, has_label, label_names
from mmfeat.common.text import counted, quoted
from mmfeat.data.corrections import FILE as CORRECTIONS
from mmfeat.data.corrections import add_answers
from mmfeat.data.review_formats import (
    COCO,
    CSV,
    FORMATS,
    LABEL_STUDIO,
    coco_review,
    label_studio_config,
    label_studio_tasks,
)
from mmfeat.data.review_table import FILE, is_review, n_answered, nothing_mark, read_answers, review_bytes
from mmfeat.inference.review_queue import ReviewQueue, image_places, likely_classes, queue_items, review_queue
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult

DEFAULT_N = 50


@dataclass(frozen=True, kw_only=True, repr=False)
class ReviewResult(TableResult):
    """The table of a review, and the file that holds it.

    Attributes
    ----------
    made : bool
        False if the file had exactly this content already.
    chosen : str
        How the run was selected; empty if it was named.
    n_rows, n_candidates : int
        Rows in the file, and rows that they were selected from.
    n_reviewed, n_unknown : int
        Rows left out: rows in corrections.csv, and rows that have no input of the run.
    without_prediction : list of str
        Encoders of the run without unimodal predictions.
    in_sample : str
        How many of the rows the run was trained on; empty if none.
    nothing : str
        The text to fill in if no class applies.
    columns : dict of str to list of str
        The table that was written, by column.
    format : str
        `csv`, `label-studio` or `coco`.
    config : Path or None
        The labeling configuration of Label Studio; None for other formats.
    """

    file: Path
    made: bool
    run: str
    chosen: str
    split: str
    n_rows: int
    n_candidates: int
    n_reviewed: int
    n_unknown: int
    without_prediction: list[str]
    in_sample: str
    nothing: str
    columns: dict[str, list[str]]
    format: str = CSV
    config: Path | None = None

    def _about(self) -> str:
        rows = f"{self.n_rows:,} of {counted(self.n_candidates, f'{self.split} row')}"
        return f"{'Made' if self.made else 'Already made:'} {self.file} ({rows}) by {self.run}"

    def _table(self) -> list[Record]:
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


def review(
    project: Project,
    run: str | None = None,
    *,
    n: int = DEFAULT_N,
    split: str = "unlabelled",
    format: str = CSV,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> ReviewResult:
    """Write the rows that are most worth labelling: the model is uncertain or its encoders disagree.

    For labelled splits, rows whose labels the model contradicts. Near-duplicates and rows in corrections.csv are left out.
    Everything is computed from cached features; only other formats than CSV need the images.

    Parameters
    ----------
    run : str, optional
        A run, or an encoder with its linear probe; the best run on val, if None.
    split : str
        `unlabelled`; or `train` or `val`, to find labels that are wrong.
    format : str
        `csv`: a table to fill in. `label-studio`: tasks with predictions, and a labeling configuration beside them.
        `coco`: images, categories, and the proposed labels as annotations without boxes.
    out : Path, optional
        The file to write; review.csv or review.json in the project's folder, if None.
    overwrite : bool
        Whether to replace a file with labels that are not applied yet, or a file that is not a review.

    Raises
    ------
    ConfigError
        There is no such format.
    DataError
        There are no such rows, or the file has labels that are not applied yet.
    OutputError
        The file is an input or a file of the project.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {quoted(format)}: use one of: {', '.join(FORMATS)}")
    name = FILE if format == CSV else str(Path(FILE).with_suffix(".json"))
    file = project.root / name if out is None else Path(out).expanduser()
    outputs = _checked_outputs(project, file, format=format, overwrite=overwrite)
    queue = review_queue(project, run, n=n, split=split)
    columns = _columns(project, queue)
    if format == CSV:
        made, config = outputs.write(file, review_bytes(columns), known=True), None
    else:
        made, config = _write_other(project, queue, outputs, file=file, format=format)
    return _result(project, queue, columns=columns, file=file, made=made, format=format, config=config)


def _result(project: Project, queue: ReviewQueue, **written: Any) -> ReviewResult:
    return ReviewResult(
        run=queue.model.name,
        chosen=queue.chosen,
        split=queue.split,
        n_rows=len(queue.best.rows),
        n_candidates=len(queue.compared),
        n_reviewed=queue.n_reviewed,
        n_unknown=queue.n_unknown,
        without_prediction=queue.without_prediction,
        in_sample=in_sample(project, queue.model.name, queue.compared),
        nothing=nothing_mark(project.manifest.classes),
        **written,
    )


def _write_other(
    project: Project, queue: ReviewQueue, outputs: Outputs, *, file: Path, format: str
) -> tuple[bool, Path | None]:
    """Write a review in the format of another tool: whether it is new, and the configuration beside it."""
    from mmfeat.project.thumbnails import picture_statistics, thumbnails

    items, rows, classes = queue_items(project, queue), queue.best.rows, project.manifest.classes
    pictured = any(item.image for item in items)
    if format == COCO:
        sizes = [(0, 0)] * len(items)
        if pictured:
            measured = picture_statistics(project, rows)
            sizes = list(zip(measured.width.tolist(), measured.height.tolist(), strict=True))
        names = project.manifest.images[rows].tolist()
        return outputs.write(file, coco_review(items, classes, names=names, sizes=sizes)), None
    config = label_studio_config(classes, pictured=pictured)
    pictures = thumbnails(project, rows) if pictured else [None] * len(items)
    made = outputs.write(file, label_studio_tasks(items, pictures, run=queue.model.name))
    outputs.write(file.with_suffix(".xml"), config)
    return made, file.with_suffix(".xml")


def _checked_outputs(project: Project, file: Path, *, format: str, overwrite: bool) -> Outputs:
    """Refuse a file that must not be replaced, before any work."""
    outputs = Outputs(project.config, overwrite=overwrite)
    outputs.check(file, known=format == CSV)
    if format == LABEL_STUDIO:
        outputs.check(file.with_suffix(".xml"))
    if format == CSV and not overwrite and not outputs.made(file):
        _keep_answers(project, file)
    return outputs


def _keep_answers(project: Project, file: Path) -> None:
    """Refuse to overwrite labels that were filled in and not applied, or any file that is not a review."""
    if not file.exists():
        return
    elsewhere = "or write another file: --out FILE (or replace it: --overwrite)"
    try:
        n, manifest = n_answered(file), project.manifest
    except DataError as error:
        raise DataError(f"{error}. It is not overwritten. Remove it, {elsewhere}") from None
    if not n:
        if not is_review(file):
            raise DataError(f"{file}: is not a review, and is not overwritten. Remove it, {elsewhere}")
        return
    separator, kept = project.config.data.separator, project.root / CORRECTIONS
    remedy = f"is not overwritten. Run: mmfeat review --apply {file}, {elsewhere}"
    try:
        given = read_answers(file, manifest.ids, manifest.classes, separator=separator).given
        applied = add_answers(kept, given, manifest.columns, separator=separator) == bytes_of(kept)
    except DataError as error:
        raise DataError(f"{error}. {file} {remedy}") from None
    if not applied:
        raise DataError(f"{file}: has {n:,} row{'s' * (n != 1)} filled in, and {remedy}")


def _columns(project: Project, queue: ReviewQueue) -> dict[str, list[str]]:
    """The columns of the table, a text for each row."""
    manifest, separator, best = project.manifest, project.config.data.separator, queue.best
    classes, labels = manifest.classes, manifest.labels[best.rows]
    given, none = label_names(labels, classes), nothing_mark(classes)
    labelled = has_label(labels)
    columns = {
        "id": manifest.ids[best.rows].tolist(),
        "image": image_places(project, best.rows),
        "caption": manifest.captions[best.rows].tolist(),
        "given": [separator.join(names) or none if known else "" for names, known in zip(given, labelled, strict=True)],
        "model": [separator.join(names) or none for names in label_names(best.predicted, classes)],
        "probabilities": _prediction(best.probs, best.predicted, classes, np.ones(len(best.rows), bool)),
    }
    for name, probs in best.unimodal.items():
        columns[f"opinion_{name}"] = _prediction(probs, decide(probs), classes, best.known[name])
    columns["why"] = ["; ".join(reason.text for reason in reasons) for reasons in queue.reasons]
    return columns


def _prediction(probs: np.ndarray, decided: np.ndarray, classes: Sequence[str], known: np.ndarray) -> list[str]:
    """Predicted and likely labels, the most probable first; empty if the input is missing."""
    return [
        "; ".join(f"{name} ({p:.2f})" for name, p in likely_classes(probs[row], decided[row], classes))
        if known[row]
        else ""
        for row in range(len(probs))
    ]
