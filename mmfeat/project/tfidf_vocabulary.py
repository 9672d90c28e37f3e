"""A TF-IDF encoder of a project, fitted on the captions of training rows: one of the project's encoders, or a baseline.

torch is imported only to fit.
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


def fitted_vocabulary(project: Project, name: str) -> Encoder:
    """The encoder of `[encoder.NAME]`, fitted on the samples of the training rows; it reads no label.

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
    """The identity of a fitted encoder that has no checkpoint yet."""
    return Identity(
        name=name,
        model=encoder.architecture,
        spec=encoder.spec(),
        width=encoder.width,
        size_mb=encoder.size_mb(),
        checkpoint=None,
        output_key=None,
    )


def with_tfidf(project: Project, name: str) -> Project:
    """The project with one more encoder: TF-IDF with default settings."""
    encoders = {**project.config.encoder, name: TfidfEncoderConfig()}
    return project.derived(config=dataclasses.replace(project.config, encoder=encoders))
