"""`mmfeat export`: a run as one folder that needs no project, checked against the cached features it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mmfeat
from mmfeat.batches import UnreadSample
from mmfeat.encoders.resolve import build_encoder
from mmfeat.errors import DataError, MissingFeatures, RunError
from mmfeat.files import staging_folder
from mmfeat.labels import sigmoid
from mmfeat.predictor import Predictor
from mmfeat.predictor.folder import publish
from mmfeat.predictor.writing import write_model
from mmfeat.workflows.compose import Composed, about, compose
from mmfeat.workflows.project import Project
from mmfeat.workflows.scoring import source

CHECKED_ROWS = 64
TOLERANCE = 0.05  # of a probability: beyond it the folder is not the run


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes
    ----------
    n_checked : int
        Rows that were read anew and predicted from the folder.
    difference : float
        The largest difference of a probability from the cached path, on those rows.
    unchecked : str
        Why no row could be compared; empty where some were.
    """

    folder: Path
    size_mb: float
    encoders: list[str]
    n_checked: int
    difference: float
    unchecked: str


def export(project: Project, name: str, destination: Path | str, dtype: str = "float32") -> ExportResult:
    """Write a run, or an encoder with its own output, as one folder; whole or not at all.

    Raises
    ------
    DataError
        The destination is there already.
    RunError
        The run is not one of today's encoders, one of them was made elsewhere, or the folder does not predict as the run.
    EncoderError
        An encoder cannot be built, or the dtype cannot hold a weight.
    """
    destination = Path(destination).expanduser().absolute()
    if destination.exists():
        raise DataError(f"{destination}: is there already. Name another folder, or remove it")
    composed = compose(project, name)
    for encoder, identity in composed.identities.items():
        if identity.spec.modality not in ("image", "text"):
            raise RunError(
                f"{name}: the embeddings of encoder {encoder!r} were made elsewhere, so that no folder could make them anew. "
                f"Export a run without it"
            )
    encoders = {n: build_encoder(project.config, n, project.checkpoints)[0] for n in composed.identities}
    rule = composed.run.record["config"]["predict"] if composed.run else project.config.values()["predict"]
    record = {
        "made_by": f"mmfeat {mmfeat.__version__}",
        "classes": list(project.manifest.classes),
        "predict": rule,
        "separator": project.config.data.separator,
        "embeddings": project.config.store.dtype,
        "run": about(project, composed),
        "about": {
            n: {"model": identity.model, "finetuned": _finetuned(project, composed, n)}
            for n, identity in composed.identities.items()
        },
    }
    with staging_folder(destination.parent, sweep=False) as staged:
        size = write_model(staged, encoders, composed.composition, record, dtype)
        n_checked, difference, unchecked = _check(project, name, Predictor.load(staged, project.config.device))
        if difference > TOLERANCE:
            raise RunError(
                f"{name}: what was written differs from the cached features' probabilities by up to {difference:.3f}. "
                f"Nothing was made. Use: --dtype float32, or make the run again"
            )
        publish(staged, destination)
    return ExportResult(destination, size, list(encoders), n_checked, difference, unchecked)


def _finetuned(project: Project, composed: Composed, name: str) -> bool:
    checkpoint = project.checkpoint(composed.identities[name])
    return checkpoint is not None and not checkpoint.frozen


def _check(project: Project, name: str, predictor: Predictor) -> tuple[int, float, str]:
    """Predict some rows from their pixels and words, and compare with the cached path; count, difference, why not."""
    images, captions, rows = [], [], []
    for row in _some_rows(project):
        try:
            images.append(_image(project, predictor, row))
        except UnreadSample:
            continue
        caption = str(project.manifest.captions[row])
        captions.append(caption if "text" in predictor.modalities.values() else None)
        rows.append(row)
    if not rows:
        return 0, 0.0, "no row could be read"
    try:
        cached = sigmoid(source(project, name, np.array(rows)).logits)
    except MissingFeatures as error:
        return 0, 0.0, str(error)
    found = predictor.predict(images, captions, on_error="record")
    same = np.array([row not in found.errors for row in range(len(rows))]) & found.known
    if not same.any():
        return 0, 0.0, "no row could be decoded"
    return int(same.sum()), float(np.abs(found.probs - cached)[same].max()), ""


def _some_rows(project: Project) -> list[int]:
    manifest = project.manifest
    rows = manifest.rows("val")
    rows = rows if len(rows) else manifest.rows("all")
    return rows[np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows)), dtype=int)].tolist()


def _image(project: Project, predictor: Predictor, row: int) -> bytes | None:
    """A row's image where the model reads images and the row has one."""
    images = [name for name, modality in predictor.modalities.items() if modality == "image"]
    if not images or not project.row_keys("image").present[row]:
        return None
    return project.reader(images[0])(row)
