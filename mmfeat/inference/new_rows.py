"""Predictions of new samples: through a project's store, or by an exported model without a project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import DataError
from mmfeat.common.progress import progress, say
from mmfeat.data.images.image_sources import ImageSources, images_beside
from mmfeat.data.images.missing_images import NO_IMAGE, explained, nothing_found
from mmfeat.data.manifest import Manifest
from mmfeat.data.setting_names import PREDICT
from mmfeat.data.tables.readers import about_images_inside, read_rows
from mmfeat.encoders.kinds import modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.inference.networks import compose
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictions, Predictor
from mmfeat.predictor.loaded_networks import head_outputs
from mmfeat.project.encoding import encode_missing
from mmfeat.project.project import Project
from mmfeat.project.project_samples import ProjectSamples
from mmfeat.store.feature_table import FeatureTable

_BLOCK = 512  # rows whose images are in memory at a time, without a project
_BATCH, _BATCH_WITH_TOKENS = 8192, 512  # rows of embeddings that are composed at a time


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """Samples to predict.

    Attributes
    ----------
    images, captions : list of str
        Names and texts; an empty text for a row without one.
    sources : ImageSources
        The folders and archives of the images.
    """

    ids: list[str]
    images: list[str]
    captions: list[str]
    sources: ImageSources
    columns: dict[str, str] = field(default_factory=dict)

    def samples(self, project: Project, images: list[str]) -> ProjectSamples:
        """Unlabelled samples with the classes of a project; `images` are the names that are looked up."""
        n, classes = len(self.ids), project.manifest.classes
        manifest = Manifest(
            ids=np.array(self.ids, dtype=object),
            images=np.array(images, dtype=object),
            captions=np.array(self.captions, dtype=object),
            labels=np.full((n, len(classes)), -1, np.int8),
            split=np.full(n, "train", dtype=object),
            classes=classes,
        )
        return ProjectSamples(project.config, manifest, sources=self.sources, memory=None)


def predict_in_project(project: Project, run: str, rows: NewRows, decision: DecisionRule) -> Predictions:
    """Predict by a current run; samples that the store lacks are encoded into it.

    Raises
    ------
    RunError
        There is no such run, or it is stale.
    """
    composed = compose(project, run)
    tokens = {name: read.number for name, read in composed.composition.tokens.items()}
    table, errors = encoded_rows(project, rows, composed.identities, tokens)
    device = torch_device(project.config.device)
    composition = composed.composition.to(device)
    parts = [
        Predictions.of(
            project.manifest.classes, head_outputs(composition, *batch.to(device)), batch.present, decision=decision
        )
        for batch in table.batches(_BATCH_WITH_TOKENS if tokens else _BATCH)
    ]
    return Predictions.joined(parts, errors)


def encoded_rows(
    project: Project, rows: NewRows, identities: dict[str, Identity], tokens: dict[str, int] | None = None
) -> tuple[FeatureTable, dict[int, str]]:
    """The features of new samples; those that the store lacks are encoded into it. And row to the error.

    Parameters
    ----------
    identities : dict of str to Identity
        The encoders by name.
    tokens : dict of str to int, optional
        Encoders whose tokens are read too, with the setting `tokens`.
    """
    images, errors = _located(rows)
    new = project.derived(samples=rows.samples(project, images))
    everything = np.arange(len(rows.ids))
    for identity in identities.values():
        extraction = encode_missing(new, identity, everything)
        if not modality_kind(identity.spec.modality).settings.made_elsewhere:
            keys = new.keys_of(identity)
            recorded = new.store.encoder(identity.spec).errors_of(keys.keys)
            errors |= {row: reason for row, reason in recorded.items() if keys.present[row]}
            errors |= {**keys.reasons, **extraction.unread}
    nothing = np.zeros(0, np.int64)  # a row that could not be encoded is not present
    encoders = {name: (identity.spec, None) for name, identity in identities.items()}
    widths = {name: identity.width for name, identity in identities.items()}
    table = new.table_of(encoders, nothing, tokens, widths=widths)
    return table, explained(errors, rows.images, rows.sources.names())


def predict_by_folder(predictor: Predictor, rows: NewRows, threshold: float | None = None) -> Predictions:
    """Predict by an exported model, in blocks; no embedding is stored."""
    modalities = set(predictor.modalities.values())
    found: list[Predictions] = []
    names, errors = _located(rows)
    n = len(rows.ids)
    with progress("predicting", n) as bar:
        for start in range(0, n, _BLOCK):
            block = range(start, min(start + _BLOCK, n))
            images = list(_read(rows, names, block, errors)) if "image" in modalities else [None] * len(block)
            captions = [rows.captions[row] if "text" in modalities else None for row in block]
            found.append(predictor.predict(images, captions, threshold=threshold, on_error="record"))
            errors |= {start + row: reason for row, reason in found[-1].errors.items()}
            bar.advance(len(block))
    return Predictions.joined(found, explained(errors, rows.images, rows.sources.names()))


def _located(rows: NewRows) -> tuple[list[str], dict[int, str]]:
    """Names of images, empty where several images have the name; and row to the error.

    Raises
    ------
    DataError
        A folder or an archive cannot be read.
    """
    rows.sources.names()
    names, errors = list(rows.images), {}
    for row, name in enumerate(names):
        try:
            rows.sources.locate(name)
        except DataError as error:
            names[row], errors[row] = "", str(error)
    return names, errors


def _read(rows: NewRows, names: list[str], block: range, errors: dict[int, str]) -> Iterator[bytes | None]:
    """The bytes of each row's image; None without an image, or if it cannot be read: `errors` then has the reason."""
    for row in block:
        location = rows.sources.locate(names[row]) if names[row] else None
        data = None
        if location is not None:
            try:
                data = rows.sources.read(location)
            except (OSError, DataError) as error:
                errors[row] = getattr(error, "strerror", None) or str(error)
        elif names[row]:
            errors[row] = NO_IMAGE
        yield data


def one_row(image: str, caption: str) -> NewRows:
    """One picture by its path, one caption, or both; an empty text stands for neither.

    Raises
    ------
    DataError
        There is no such picture.
    """
    if not image:
        return NewRows(ids=["caption"], images=[""], captions=[caption], sources=ImageSources([]))
    path = Path(image).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such image")
    return NewRows(ids=[path.name], images=[path.name], captions=[caption], sources=ImageSources.of_file(path))


def table_rows(table: str, images: tuple[str, ...], columns: dict[str, str], usual: dict[str, str]) -> NewRows:
    """The rows of a table; its images are in `images`, or next to the table.

    Parameters
    ----------
    columns : dict of str to str
        Columns by role, which must exist; other columns are detected.
    usual : dict of str to str
        Columns of the project, used if the table has them.

    Raises
    ------
    DataError
        The table or the images cannot be read.
    """
    path = Path(table).expanduser()
    source = read_rows(path, columns, usual)
    for line in source.hints:
        say(line.strip())
    if source.images_inside and not images:
        say(about_images_inside(source, PREDICT).strip())
    texts: dict[str, Any] = {"ids": source.ids, "captions": source.captions, "columns": source.columns}
    if not any(source.images):
        return NewRows(**texts, images=source.images, sources=ImageSources([]))
    places = [Path(place).expanduser() for place in images]
    sources = ImageSources(places, "--images") if places else images_beside(path)
    named = [name for name in source.images if name]
    if places and not any(sources.holds(name) for name in named):
        raise nothing_found(named, sources).called(PREDICT)
    if source.images_inside and not any(sources.holds(name) for name in named):
        return NewRows(**texts, images=[""] * len(source.ids), sources=ImageSources([]))
    return NewRows(**texts, images=source.images, sources=sources)


def check_samples(rows: NewRows, model: str, modalities: set[str]) -> None:
    """Refuse samples that have no input of the model.

    Raises
    ------
    DataError
        No sample has one of its `modalities`.
    """
    kinds = [modality_kind(modality) for modality in sorted(modalities)]
    reads = " and ".join(kind.reads for kind in kinds)
    if not any(kind.any_given(rows.ids, rows.images, rows.captions) for kind in kinds):
        raise DataError(f"{model} reads {reads}, but the samples to predict have none")
    if all(kind.settings.by_id for kind in kinds) and len(rows.ids) == 1 and not rows.columns:
        raise DataError(f"{model} reads only {reads}, which a picture or a caption does not have. Give a table of ids")
