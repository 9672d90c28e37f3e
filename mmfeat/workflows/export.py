"""`mmfeat export`: a run as one folder that needs no project, checked against the cached features it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

import mmfeat
from mmfeat.common.errors import DataError, MissingFeatures, RunError, one_line
from mmfeat.common.extras import require
from mmfeat.common.files import digest_json, remove_leftovers, staging_folder
from mmfeat.common.urls import refuse_url
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.kinds import kind_of, modality_kind
from mmfeat.inference.fitted_rules import about_fit, shipped_rule
from mmfeat.inference.logits import logits_of
from mmfeat.inference.networks import Composed, compose, model_record
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictions, Predictor, onnx_files
from mmfeat.predictor.engines import TorchEngine
from mmfeat.predictor.folder import FORMAT as EXPORT_FORMAT
from mmfeat.predictor.folder import RECORD, publish, read_folder, size_mb
from mmfeat.predictor.writing import write_model
from mmfeat.project.project import Project
from mmfeat.store.keys import tensors_digest

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
    n_run : int
        Rows that torch predicted as well, for a folder that another runtime runs.
    runtime_difference : float
        The largest difference of a probability from torch, on those rows.
    made : bool
        False where the folder was there already, made from the same.
    """

    folder: Path
    size_mb: float
    encoders: list[str]
    n_checked: int
    difference: float
    unchecked: str
    n_run: int = 0
    runtime_difference: float = 0.0
    made: bool = True


def export(
    project: Project, name: str, destination: Path | str, dtype: str = "float32", runtime: str = "torch"
) -> ExportResult:
    """Write a run, or an encoder with its own output, as one folder; whole or not at all.

    A folder that was made from the same stays as it is; anything else that is there already is an error.

    Parameters
    ----------
    dtype : str
        Of the weights as they are kept: `float32` or `float16`.
    runtime : str
        What is to run it: `torch` or `onnx`.

    Raises
    ------
    DataError
        The destination is there already, and was not made from the same.
    RunError
        The run is not one of today's encoders, one of them was made elsewhere, or the folder does not predict as the run.
    EncoderError
        An encoder cannot be built or written for the runtime, or the dtype cannot hold a weight.
    ConfigError
        What the runtime needs is not installed; thresholds or temperature are tuned and there is no val row.
    """
    refuse_url(destination)
    for module in onnx_files.NEEDED if runtime == "onnx" else ():  # said before anything is computed
        require(module, onnx_files.EXTRA)
    destination = Path(destination).expanduser().absolute()
    before = _there(destination) if destination.exists() else None
    composed = compose(project, name)
    for encoder, identity in composed.identities.items():
        if modality_kind(identity.spec.modality).settings.made_elsewhere:
            raise RunError(
                f"{name}: the embeddings of encoder {encoder!r} were made elsewhere, so that no folder could make them anew. "
                f"Export a run without it"
            )
    if runtime == "onnx" and composed.composition.tokens:
        raise RunError(
            f"{name}: its head reads tokens of {', '.join(composed.composition.tokens)}, which is written for torch alone. "
            f"Use: --format torch, or a head with tokens = 'chunked'"
        )
    decision = shipped_rule(project, name)
    record = {
        "classes": list(project.manifest.classes),
        "predict": {**decision.as_dict(), "fitted": about_fit(project)},
        "separator": project.config.data.separator,
        "embeddings": project.config.store.dtype,
        "run": model_record(project, composed),
        "about": {
            n: {"model": identity.model, "finetuned": _finetuned(project, composed, n)}
            for n, identity in composed.identities.items()
        },
    }
    made_from = _made_from(composed, record, dtype, runtime)
    if before is not None:
        if before.get("made_from") == made_from:
            return _as_it_is(destination, composed)
        raise DataError(f"{destination}: is there already, made from something else. {_OTHER}")
    record |= {"made_by": f"mmfeat {mmfeat.__version__}", "made_from": made_from}
    encoders = {n: project.built(identity) for n, identity in composed.identities.items()}
    try:
        remove_leftovers(destination.parent, below=False)
        return _written(project, composed, destination, encoders, record, dtype, runtime)
    except (OSError, SafetensorError) as error:  # a full disk, no leave
        reason = getattr(error, "strerror", None) or one_line(error)
        raise RunError(f"{destination}: cannot be written: {reason}. Nothing was made") from None


_OTHER = "Name another folder, or remove it"


def _there(destination: Path) -> dict[str, Any]:
    """The record of a whole exported model; anything else is in the way."""
    try:
        return read_folder(destination)
    except RunError as error:
        why = f" ({error})" if (destination / RECORD).is_file() else ""
        raise DataError(f"{destination}: is there already{why}. {_OTHER}") from None


def _made_from(composed: Composed, record: dict[str, Any], dtype: str, runtime: str) -> str:
    """Digest of all that an exported folder is made from: what it says, its encoders' keys, its heads' weights."""
    state = composed.composition.state_dict().items()
    tensors = ((name, str(t.dtype), t.shape, t.cpu().contiguous().numpy().tobytes()) for name, t in state)
    encoders = {name: [identity.spec.key, identity.output_key] for name, identity in composed.identities.items()}
    return digest_json(
        [record, encoders, composed.composition.describe(), tensors_digest(tensors), dtype, runtime, EXPORT_FORMAT]
    )


def _as_it_is(destination: Path, composed: Composed) -> ExportResult:
    return ExportResult(destination, size_mb(destination), list(composed.identities), 0, 0.0, "", made=False)


def _written(
    project: Project,
    composed: Composed,
    destination: Path,
    encoders: dict[str, Any],
    record: dict[str, Any],
    dtype: str,
    runtime: str,
) -> ExportResult:
    """Fill a folder beside the destination, compare it, and give it its name."""
    name = composed.name
    with staging_folder(destination.parent, sweep=False) as staged:
        size = write_model(staged, encoders, composed.composition, record=record, dtype=dtype, runtime=runtime)
        predictor = Predictor.load(staged, project.config.device)
        rows, samples = _samples(project, predictor)
        found = predictor.predict(**samples, on_error="record") if rows else None
        cached, unchecked = _cached(project, name, rows, predictor.decision)
        n_checked, difference = _compared(name, found, cached, "the cached features' probabilities")
        n_run, runtime_difference = 0, 0.0
        if runtime == "onnx" and found is not None:
            engine = TorchEngine(encoders, composed.composition, torch.device("cpu"))
            by_torch = Predictor(engine, predictor.record).predict(**samples, on_error="record")
            n_run, runtime_difference = _compared(name, found, by_torch.probs, "what torch predicts")
        try:
            publish(staged, destination)
        except RunError:  # another process was quicker
            if not destination.exists() or _there(destination).get("made_from") != record["made_from"]:
                raise
            return _as_it_is(destination, composed)
    if not n_checked:
        unchecked = unchecked or "no row could be decoded"
    return ExportResult(destination, size, list(encoders), n_checked, difference, unchecked, n_run, runtime_difference)


def _finetuned(project: Project, composed: Composed, name: str) -> bool:
    checkpoint = project.checkpoint(composed.identities[name])
    return checkpoint is not None and not checkpoint.label_free


def _samples(project: Project, predictor: Predictor) -> tuple[list[int], dict[str, Any]]:
    """Some rows that can be read, and their samples as `Predictor.predict` takes them."""
    readers = {modality: _reader(project, name) for name, modality in reversed(predictor.modalities.items())}
    rows, found = [], {modality: [] for modality in readers}
    for row in _some_rows(project):
        try:
            samples = {modality: read(row) for modality, read in readers.items()}
        except UnreadSample:
            continue
        rows.append(row)
        for modality, sample in samples.items():
            found[modality].append(sample)
    arguments = {"images": found.pop("image", None), "captions": found.pop("text", None)}
    return rows, {**arguments, "others": found} if found else arguments


def _reader(project: Project, name: str) -> Callable[[int], Any]:
    """Row to its sample of one encoder; None where it has none."""
    kind = kind_of(project.config.encoder[name])
    present = project.row_keys(kind.modality, project.source_of(kind.modality, name)).present
    read = project.reader(name)
    return lambda row: read(row) if present[row] else None


def _cached(project: Project, name: str, rows: list[int], decision: DecisionRule) -> tuple[np.ndarray | None, str]:
    """Probabilities `(N, K)` from the cached features, or why there are none."""
    if not rows:
        return None, "no row could be read"
    try:
        return decision.probs(logits_of(project, name, np.array(rows), shipped=True).logits), ""
    except MissingFeatures as error:
        return None, str(error)


def _compared(name: str, found: Predictions | None, probs: np.ndarray | None, whose: str) -> tuple[int, float]:
    """How many rows could be compared, and the largest difference."""
    if found is None or probs is None:
        return 0, 0.0
    same = np.array([row not in found.errors for row in range(len(found))]) & found.known
    difference = float(np.abs(found.probs - probs)[same].max(initial=0.0))
    if not difference <= TOLERANCE:  # nor where it is no number
        raise RunError(
            f"{name}: what was written differs from {whose} by up to {difference:.3f}. "
            f"Nothing was made. Use: --dtype float32, or make the run again"
        )
    return int(same.sum()), difference


def _some_rows(project: Project) -> list[int]:
    manifest = project.manifest
    rows = manifest.rows("val")
    rows = rows if len(rows) else manifest.rows("all")
    return rows[np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows)), dtype=int)].tolist()
