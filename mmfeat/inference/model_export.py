"""A run as one folder that needs no project, compared with the cached features that the run was trained on."""

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
from mmfeat.common.text import counted
from mmfeat.common.urls import refuse_url
from mmfeat.config.encoder_tables import MIXED
from mmfeat.encoders import onnx_graphs
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.kinds import kind_of, modality_kind
from mmfeat.inference.fitted_rules import about_fit, shipped_rule
from mmfeat.inference.logits import logits_of
from mmfeat.inference.model_lineage import model_lineage
from mmfeat.inference.networks import Composed, compose, model_record
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictions, Predictor
from mmfeat.predictor.folder import FORMAT as EXPORT_FORMAT
from mmfeat.predictor.folder import RECORD, publish, read_folder, size_mb
from mmfeat.predictor.loaded_networks import TorchNetworks
from mmfeat.predictor.writing import write_model
from mmfeat.project.project import Project
from mmfeat.report.result import Result
from mmfeat.store.keys import tensors_digest

CHECKED_ROWS = 64
TOLERANCE = 0.05  # of a probability; a larger difference means that the folder is not the run
MIXED_FACTOR = 3  # of the tolerance, where engines may compute in different arithmetic


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportResult(Result):
    """An exported model.

    Attributes
    ----------
    size_mb : float
        Size of the folder.
    encoders : list of str
        Names of its encoders.
    n_checked : int
        Rows that were read again and predicted from the folder.
    difference : float
        The largest difference of a probability from the cached features' on those rows.
    unchecked : str
        Why no row could be compared. Empty if some were.
    n_run : int
        Rows that torch predicted too, if another runtime executes the folder.
    runtime_difference : float
        The largest difference of a probability from torch's on those rows.
    made : bool
        False if the folder existed and was made from the same run and settings.
    """

    folder: Path
    size_mb: float
    encoders: list[str]
    n_checked: int = 0
    difference: float = 0.0
    unchecked: str = ""
    n_run: int = 0
    runtime_difference: float = 0.0
    made: bool = True

    def _about(self) -> str:
        made = "Exported" if self.made else "Already exported from the same:"
        text = f"{made} {self.folder} ({', '.join(self.encoders)} and heads, {self.size_mb:,.1f} MB)"
        if self.n_checked:
            text += (
                f"\n{counted(self.n_checked, 'row')} compared with the cached features: "
                f"probabilities differ by at most {self.difference:.1e}"
            )
        return f"{text}\nNot compared with the cached features: {self.unchecked}" if self.unchecked else text


@dataclass(frozen=True)
class _Form:
    """How a model is written: dtypes of its encoders' weights and of its heads', and what executes it."""

    dtype: str
    heads: str
    runtime: str


def export_model(
    project: Project, run: str, destination: Path | str, *, dtype: str = "float32", format: str = "torch"
) -> ExportResult:
    """Write a run, or an encoder with its linear probe, as one folder. The folder appears whole or not at all.

    A folder that was made from the same run and settings stays as it is. Anything else in its place is an error.

    Parameters
    ----------
    dtype : str
        Type of the stored weights: `float32` or `float16`. With float32, `heads_dtype` of mmfeat.toml is that of heads.
    format : str
        What executes the model: `torch` or `onnx`.

    Raises
    ------
    DataError
        The destination exists and was made from something else.
    RunError
        The run is stale, an encoder's embeddings were imported, or the folder's predictions differ from the run's.
    EncoderError
        An encoder cannot be built or written in this format, or the dtype cannot hold a weight.
    ConfigError
        A package is missing, or thresholds or temperature have to be fitted and there is no val row.
    """
    refuse_url(destination)
    for module in onnx_graphs.NEEDED if format == "onnx" else ():  # before any work
        require(module, onnx_graphs.EXTRA)
    heads = dtype if dtype == "float16" else project.config.heads_dtype
    destination, form = Path(destination).expanduser().absolute(), _Form(dtype, heads, format)
    before = _existing(destination) if destination.exists() else None
    composed = compose(project, run)
    _check_exportable(composed, form)
    record = _record(project, composed)
    made_from = _made_from(composed, record, form)
    if before is not None:
        if before.get("made_from") == made_from:
            return _unchanged(destination, composed)
        raise DataError(f"{destination}: exists and was made from something else. {_OTHER}")
    record["run"]["lineage"] = model_lineage(project, composed)  # it follows from the run, so the digest is without it
    record |= {"made_by": f"mmfeat {mmfeat.__version__}", "made_from": made_from, "limit_mb": project.config.limit_mb}
    encoders = {n: project.built(identity) for n, identity in composed.identities.items()}
    try:
        remove_leftovers(destination.parent, below=False)
        return _write(project, composed, destination, encoders=encoders, record=record, form=form)
    except (OSError, SafetensorError) as error:  # a full disk, a missing permission
        reason = getattr(error, "strerror", None) or one_line(error)
        raise RunError(f"{destination}: cannot be written: {reason}. Nothing was made") from None


def _check_exportable(composed: Composed, form: _Form) -> None:
    name = composed.name
    for encoder, identity in composed.identities.items():
        if modality_kind(identity.spec.modality).settings.made_elsewhere:
            raise RunError(
                f"{name}: the embeddings of encoder {encoder!r} were imported, so an exported model could not compute "
                f"them. Export a run without this encoder"
            )
    if form.runtime == "onnx" and composed.composition.tokens:
        raise RunError(
            f"{name}: its head reads tokens of {', '.join(composed.composition.tokens)}, which only torch supports. "
            f"Use: --format torch, or a head with tokens = 'chunked'"
        )


def _record(project: Project, composed: Composed) -> dict[str, Any]:
    """The content of mmfeat.json, as JSON values."""
    rule = shipped_rule(project, composed.name)
    return {
        "classes": list(project.manifest.classes),
        "predict": {**rule.as_dict(), "fitted": about_fit(project, rule)},
        "separator": project.config.data.separator,
        "embeddings": project.config.store.dtype,
        "run": model_record(project, composed),
        "about": {
            n: {"model": identity.model, "finetuned": _finetuned(project, composed, n)}
            for n, identity in composed.identities.items()
        },
    }


_OTHER = "Name another folder, or remove it"


def _existing(destination: Path) -> dict[str, Any]:
    """The record of an exported model in a folder. Any other folder is an error."""
    try:
        return read_folder(destination)
    except RunError as error:
        why = f" ({error})" if (destination / RECORD).is_file() else ""
        raise DataError(f"{destination}: exists{why}. {_OTHER}") from None


def _made_from(composed: Composed, record: dict[str, Any], form: _Form) -> str:
    """Digest of everything that an exported model depends on: its record, its encoders' keys, its heads' weights."""
    state = composed.composition.state_dict().items()
    tensors = ((name, str(t.dtype), t.shape, t.cpu().contiguous().numpy().tobytes()) for name, t in state)
    encoders = {name: [identity.spec.key, identity.output_key] for name, identity in composed.identities.items()}
    heads = composed.composition.describe()
    name = composed.run.first_name if composed.run else composed.name  # a renamed run is the same run
    record = {**record, "run": {**record["run"], "name": name}}
    dtypes = form.dtype if form.heads == form.dtype else [form.dtype, form.heads]
    return digest_json([record, encoders, heads, tensors_digest(tensors), dtypes, form.runtime, EXPORT_FORMAT])


def _unchanged(destination: Path, composed: Composed) -> ExportResult:
    return ExportResult(
        folder=destination, size_mb=size_mb(destination), encoders=list(composed.identities), made=False
    )


def _write(
    project: Project,
    composed: Composed,
    destination: Path,
    *,
    encoders: dict[str, Any],
    record: dict[str, Any],
    form: _Form,
) -> ExportResult:
    """Fill a temporary folder, compare its predictions with the run's, then rename it."""
    name = composed.name
    with staging_folder(destination.parent, sweep=False) as staged:
        size = write_model(
            staged,
            encoders,
            composed.composition,
            record=record,
            dtype=form.dtype,
            heads_dtype=form.heads,
            runtime=form.runtime,
        )
        predictor = Predictor.load(staged, project.config.device)
        rows, samples = _samples(project, predictor)
        found = predictor.predict(**samples, on_error="record") if rows else None
        cached, unchecked = _cached(project, name, rows, decision=predictor.decision)
        mixed = any(encoder.precision == MIXED for encoder in encoders.values())
        limit = TOLERANCE * (MIXED_FACTOR if mixed else 1)
        n_checked, difference = _compared(name, found, cached, whose="the cached features' probabilities", limit=limit)
        n_run, runtime_difference = 0, 0.0
        if form.runtime == "onnx" and found is not None:
            engine = TorchNetworks(encoders, composed.composition, torch.device("cpu"))
            by_torch = Predictor(engine, predictor.record).predict(**samples, on_error="record")
            n_run, runtime_difference = _compared(name, found, by_torch.probs, whose="torch's predictions", limit=limit)
        try:
            publish(staged, destination)
        except RunError:  # another process was faster
            if not destination.exists() or _existing(destination).get("made_from") != record["made_from"]:
                raise
            return _unchanged(destination, composed)
    return ExportResult(
        folder=destination,
        size_mb=size,
        encoders=list(encoders),
        n_checked=n_checked,
        difference=difference,
        unchecked=unchecked if n_checked else unchecked or "no row could be decoded",
        n_run=n_run,
        runtime_difference=runtime_difference,
    )


def _finetuned(project: Project, composed: Composed, name: str) -> bool:
    checkpoint = project.checkpoint(composed.identities[name])
    return checkpoint is not None and not checkpoint.label_free


def _samples(project: Project, predictor: Predictor) -> tuple[list[int], dict[str, Any]]:
    """Up to `CHECKED_ROWS` rows that can be read, and their samples as `Predictor.predict` takes them."""
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
    """A function from a row to its sample for one encoder, or None if the row has no sample."""
    kind = kind_of(project.config.encoder[name])
    present = project.row_keys(kind.modality, project.source_of(kind.modality, name)).present
    read = project.reader(name)
    return lambda row: read(row) if present[row] else None


def _cached(project: Project, name: str, rows: list[int], *, decision: DecisionRule) -> tuple[np.ndarray | None, str]:
    """Probabilities `(N, K)` from the cached features, or the reason why they cannot be computed."""
    if not rows:
        return None, "no row could be read"
    try:
        return decision.probs(logits_of(project, name, np.array(rows), shipped=True).logits), ""
    except MissingFeatures as error:
        return None, str(error)


def _compared(
    name: str, found: Predictions | None, probs: np.ndarray | None, *, whose: str, limit: float
) -> tuple[int, float]:
    """How many rows could be compared, and the largest difference."""
    if found is None or probs is None:
        return 0, 0.0
    same = np.array([row not in found.errors for row in range(len(found))]) & found.known
    difference = float(np.abs(found.probs - probs)[same].max(initial=0.0))
    if not difference <= limit:  # NaN fails too
        raise RunError(
            f"{name}: the exported model's probabilities differ from {whose} by up to {difference:.3f}. "
            f"Nothing was made. Use: --dtype float32, or make the run again"
        )
    return int(same.sum()), difference


def _some_rows(project: Project) -> list[int]:
    manifest = project.manifest
    rows = manifest.rows("val")
    rows = rows if len(rows) else manifest.rows("all")
    return rows[np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows)), dtype=int)].tolist()
