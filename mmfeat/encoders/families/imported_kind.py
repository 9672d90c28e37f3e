"""The encoder kind `imported`: embeddings from another program, identified by the ids of their rows; it has no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmfeat.common.errors import EncoderError
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import OtherEncoderConfig
from mmfeat.data.row_keys import RowKeys, id_keys
from mmfeat.encoders.checkpoint import checkpoints_of, read_checkpoint
from mmfeat.encoders.description import Description
from mmfeat.encoders.kinds import EncoderHost, EncoderKind, SampleHost, register_encoder_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.store import EncoderFeatures
from mmfeat.store.encoder_record import read_record

_DIGITS = 16  # of a key, in messages


@register_encoder_kind
class ImportedKind(EncoderKind):
    """Encoders of imported embeddings; keys and width come from the store."""

    settings = OtherEncoderConfig
    reads = "imported embeddings"

    def row_keys(self, host: SampleHost, source: str) -> RowKeys:
        """Digests of the ids, whether a row has an embedding or not."""
        return RowKeys(keys=id_keys(host.manifest.ids), present=np.ones(host.manifest.n_samples, dtype=bool))

    def untunable(self, name: str) -> str:
        """The error about fine-tuning an encoder without a network."""
        return f"encoder.{name}: imported embeddings have no network to fine-tune, only a linear probe can be fitted on them."

    def describe(self, table: OtherEncoderConfig, folder: Path) -> Description:
        """The key of the import."""
        return Description(table.model[:_DIGITS], self.modality, source=self.name)

    def known(self, host: EncoderHost, name: str) -> Identity | None:
        """The keys of an imported encoder, which is never built."""
        return self.identify(host, name)

    def identify(self, host: EncoderHost, name: str, *, pretrained_only: bool = False) -> Identity:
        """The keys of an imported encoder; its checkpoints contain only a linear probe.

        Raises
        ------
        EncoderError
            The store has no such import, or only some of its rows, or the checkpoint belongs to another encoder.
        StoreError
            The store cannot be read.
        """
        table, remedy = host.config.encoder[name], f"Run: {self.settings.remedy(name)}"
        features = host.store.find(table.imported)
        if features is None:
            place = f"{host.config.store.path}/"
            raise EncoderError(f"encoder.{name}: {place} has no import {table.imported[:_DIGITS]}. {remedy}")
        spec = features.spec
        if spec.modality != self.modality:
            raise EncoderError(
                f"encoder.{name}: {table.imported[:_DIGITS]} is an encoder of {spec.modality}s. {remedy}"
            )
        if lost := incomplete(features):
            raise EncoderError(f"encoder.{name}: {lost}. {remedy}")
        given, chosen = table.checkpoint, None
        if given != "none":
            latest = given == "latest"
            found = checkpoints_of(host.checkpoints, name) if latest else [read_checkpoint(host.config.path(given))]
            chosen = next((one for one in found if one.frozen and one.encoder_key == spec.key), None)
            if not latest and chosen is None:
                raise EncoderError(f'encoder.{name}: {given} belongs to another encoder. Set: checkpoint = "latest"')
        return Identity(
            name=name,
            model=spec.architecture,
            spec=spec,
            width=read_record(features.folder).width,
            size_mb=None,
            checkpoint=chosen.name if chosen else None,
            output_key=chosen.output().key if chosen else None,
        )


def incomplete(features: EncoderFeatures) -> str:
    """Describe the missing rows of an interrupted or damaged import; empty if it is complete."""
    n_rows, n_stored = features.spec.preprocessing["rows"], features.n_rows
    if n_stored >= n_rows:
        return ""
    return f"its import is incomplete: the store has {n_stored:,} of {counted(n_rows, 'embedding')}"
