"""Embeddings that were made elsewhere, as an encoder of the project: keys and a width, and no network."""

from __future__ import annotations

from pathlib import Path

from mmfeat.common.errors import EncoderError
from mmfeat.common.text import counted
from mmfeat.config.schema import OTHER, Config
from mmfeat.encoders.checkpoint import checkpoints_of, read_checkpoint
from mmfeat.encoders.resolve import Identity
from mmfeat.store import EncoderFeatures, FeatureStore
from mmfeat.store.encoder_record import read_record


def identify_imported(config: Config, name: str, checkpoints: Path, store: FeatureStore) -> Identity:
    """The keys of an imported encoder, from what the store says of it.

    Raises
    ------
    EncoderError
        The store has no such import, or only some of its rows; its checkpoint is of something else.
    StoreError
        The store cannot be read.
    """
    table = config.encoder[name]
    remedy = f"Run: mmfeat store import {name} FILE"
    features = store.find(table.imported)
    if features is None:
        raise EncoderError(f"encoder.{name}: {config.store.path}/ has no import {table.imported[:16]}. {remedy}")
    spec = features.spec
    if spec.modality != OTHER:
        raise EncoderError(f"encoder.{name}: {table.imported[:16]} is an encoder of {spec.modality}s. {remedy}")
    if lost := incomplete(features):
        raise EncoderError(f"encoder.{name}: {lost}. {remedy}")
    given, chosen = table.checkpoint, None
    if given != "none":
        found = checkpoints_of(checkpoints, name) if given == "latest" else [read_checkpoint(config.path(given))]
        chosen = next((one for one in found if one.frozen and one.encoder_key == spec.key), None)
        if given != "latest" and chosen is None:
            raise EncoderError(f'encoder.{name}: {given} is of another encoder. Set: checkpoint = "latest"')
    return Identity(
        name,
        spec.architecture,
        spec,
        read_record(features.folder).width,
        None,
        chosen.name if chosen else None,
        chosen.output().key if chosen else None,
    )


def incomplete(features: EncoderFeatures) -> str:
    """What is missing of an import: it was interrupted, or files are damaged; empty where nothing is."""
    n_rows, there = features.spec.preprocessing["rows"], features.n_rows
    return "" if there >= n_rows else f"its import is incomplete, {there:,} of {counted(n_rows, 'embedding')} there"
