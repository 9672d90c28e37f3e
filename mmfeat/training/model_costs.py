"""The costs of a model end to end: seconds to train its encoders and heads, milliseconds to predict one sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.devices import provenance, torch_device
from mmfeat.common.errors import MmfeatError, one_line
from mmfeat.common.json_shapes import Number
from mmfeat.common.progress import say
from mmfeat.common.remembered import recall, remember
from mmfeat.config.encoder_tables import modality_table
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import Extraction, distinct_rows
from mmfeat.project.project import Project
from mmfeat.runs.comparison import ModelCosts
from mmfeat.runs.comparison_files import ModelLogits
from mmfeat.training.dry_run import measure_encoding

MEASURED_ON = 256  # encoded samples from which the extraction's own rate is used


@dataclass(frozen=True, kw_only=True)
class EncoderCosts:
    """What one encoder costs.

    Attributes
    ----------
    tuning, probe : float
        Seconds to fine-tune it, and to fit its linear probe; 0 if that was not done.
    encoding : float or None
        Seconds to encode the labelled rows; None if samples cannot be encoded.
    milliseconds : float or None
        To read, prepare and encode one sample.
    """

    tuning: float
    probe: float
    encoding: float | None
    milliseconds: float | None


def encoder_costs(project: Project, identity: Identity, file: Path) -> EncoderCosts:
    """The costs of an encoder of the project. Its speed is measured on a few batches once, and kept in `file`."""
    manifest, checkpoint = project.manifest, project.checkpoint(identity)
    keys = project.row_keys(identity.spec.modality, project.source_of(identity.spec.modality, identity.name))
    rows = np.concatenate([manifest.rows(which) for which in ("train", "val")])
    rows = rows[keys.present[rows]]
    device = provenance(torch_device(project.config.device))["device"]
    name, kept = f"{identity.spec.key} {project.config.engine} {device}", recall(file, {str: Number(float, low=0)})
    rate = kept.get(name)
    if rate is None:
        try:
            rate = encoding_rate(project, identity, rows)[0]
        except (MmfeatError, OSError) as error:  # its weights or the images are not here any more
            say(f"{identity.name}: its time to encode is not measured: {one_line(error)}")
        if rate is not None:
            remember(file, {**kept, name: rate})
    seconds = checkpoint.record["seconds"] if checkpoint else 0.0
    frozen = checkpoint is None or checkpoint.frozen
    return EncoderCosts(
        tuning=0.0 if frozen else seconds,
        probe=seconds if frozen else 0.0,
        encoding=None if rate is None else len(distinct_rows(keys.keys, rows)) / rate,
        milliseconds=None if rate is None else 1000 / rate,
    )


def model_costs(
    model: ModelLogits, encoders: Iterable[EncoderCosts], *, probes: bool, reads_embeddings: bool
) -> ModelCosts:
    """The costs of a model with its encoders.

    Parameters
    ----------
    probes : bool
        Whether the encoders' linear probes are part of the model.
    reads_embeddings : bool
        Whether a head reads embeddings of the training rows. Otherwise, a fine-tuned encoder need not encode them again.
    """
    seconds, milliseconds = [model.seconds or 0.0], [model.microseconds / 1000]
    for one in encoders:
        encoded = reads_embeddings or not one.tuning
        seconds += [one.tuning, one.probe if probes else 0.0, one.encoding if encoded else 0.0]
        milliseconds.append(one.milliseconds)
    return ModelCosts(
        train_seconds=None if None in seconds else sum(seconds),
        milliseconds=None if None in milliseconds else sum(milliseconds),
    )


def encoding_rate(
    project: Project, identity: Identity, rows: np.ndarray, extraction: Extraction | None = None
) -> tuple[float | None, str]:
    """Samples per second and what they were measured on: the extraction, or a few batches if it encoded almost nothing."""
    if modality_table(identity.spec.modality).made_elsewhere or not len(rows):
        return None, ""
    if extraction and extraction.encoded >= MEASURED_ON:
        return extraction.encoded / sum(extraction.shares.values()), f"while {extraction.encoded:,} were encoded"
    return len(rows) / measure_encoding(project, identity, rows).seconds, "on a few batches"
