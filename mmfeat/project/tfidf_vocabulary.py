"""A TF-IDF encoder of a project, fitted on the captions of training rows: an encoder of its own, or a baseline.

Nothing here imports torch unless there is something to fit.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmfeat.common.errors import EncoderError
from mmfeat.config.encoder_tables import TfidfEncoderConfig
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project

if TYPE_CHECKING:
    from mmfeat.encoders.encoder import Encoder


def fitted_words(project: Project, name: str) -> Encoder:
    """An encoder fitted on the samples of the training rows, as `[encoder.NAME]` says; it reads no label.

    Raises
    ------
    EncoderError
        There is too little to fit it on: for TF-IDF, no word is in two captions.
    """
    table = project.config.encoder[name]
    kind = kind_of(table)
    rows, source = project.manifest.rows("train"), project.source_of(kind.modality, name)
    rows = rows[project.row_keys(kind.modality, source).present[rows]]
    read = kind.reader(project.samples, source)
    try:
        return kind.fit(table, [read(row) for row in rows.tolist()])
    except EncoderError as error:
        raise EncoderError(f"encoder.{name}: {error}") from None


def identity_of(name: str, encoder: Encoder) -> Identity:
    """The keys of a fitted encoder that has no checkpoint yet."""
    return Identity(
        name=name,
        model=encoder.architecture,
        spec=encoder.spec(),
        width=encoder.width,
        size_mb=encoder.size_mb(),
        checkpoint=None,
        output_key=None,
    )


def with_words(project: Project, name: str) -> Project:
    """The same project with one more encoder, a TF-IDF of default settings."""
    encoders = {**project.config.encoder, name: TfidfEncoderConfig()}
    return project.derived(config=dataclasses.replace(project.config, encoder=encoders))
