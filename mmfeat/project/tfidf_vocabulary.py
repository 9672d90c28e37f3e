"""A TF-IDF encoder of a project, fitted on the captions of training rows: an encoder of its own, or a baseline.

Nothing here imports torch unless there is something to fit.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmfeat.common.errors import EncoderError
from mmfeat.config.schema import TFIDF, TfidfEncoderConfig
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project

if TYPE_CHECKING:
    from mmfeat.encoders.families.tfidf import TfidfEncoder


def fitted_words(project: Project, name: str) -> TfidfEncoder:
    """Vocabulary and weights from the captions of labelled train rows, by the settings of `[encoder.NAME]`; labels are not read.

    Raises
    ------
    EncoderError
        No word occurs in two of them.
    """
    from mmfeat.encoders.families.tfidf import TfidfEncoder

    manifest, table = project.manifest, project.config.encoder[name]
    rows = manifest.rows("train")
    rows = rows[project.row_keys("text").present[rows]]
    try:
        return TfidfEncoder.fit([str(caption) for caption in manifest.captions[rows]], table.width, table.ngrams)
    except EncoderError as error:
        raise EncoderError(f"encoder.{name}: {error}") from None


def identity_of(name: str, encoder: TfidfEncoder) -> Identity:
    """Names and keys of a TF-IDF encoder that has no checkpoint yet."""
    return Identity(name, TFIDF, encoder.spec(), encoder.width, encoder.size_mb(), None, None)


def with_words(project: Project, name: str) -> Project:
    """The same project with one more encoder, a TF-IDF of default settings."""
    encoders = {**project.config.encoder, name: TfidfEncoderConfig()}
    return project.derived(config=dataclasses.replace(project.config, encoder=encoders))
