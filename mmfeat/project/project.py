"""A project: one folder with mmfeat.toml, its samples, its encoders and their features."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from mmfeat.common.errors import MissingFeatures
from mmfeat.common.remembered import if_possible
from mmfeat.common.spelling import spellings
from mmfeat.common.text import counted, shown
from mmfeat.config.reader import with_settings
from mmfeat.config.schema import Config
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import RowKeys, id_keys
from mmfeat.encoders.families.imported_kind import incomplete
from mmfeat.encoders.kinds import kind_of, modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project_encoders import ProjectEncoders
from mmfeat.project.project_samples import ProjectSamples
from mmfeat.store import FeatureStore
from mmfeat.store.feature_table import FeatureTable, open_table
from mmfeat.store.keys import EncoderSpec


class Project(ProjectEncoders):
    """A folder with mmfeat.toml, manifest.parquet, checkpoints/, runs/ and a feature store.

    It is a snapshot: settings, manifest and row keys are read once, so that all results are consistent with one another.
    `has_changed` tells whether the files have changed since, and `reopened` returns a new snapshot.
    """

    def derived(
        self,
        *,
        settings: dict[str, Any] | None = None,
        config: Config | None = None,
        manifest: Manifest | None = None,
        samples: ProjectSamples | None = None,
        folder: Path | None = None,
        memory: Path | None = None,
        store: FeatureStore | None = None,
    ) -> Self:
        """A copy of the project with some parts replaced. The project itself does not change.

        The copy shares all other parts with the project, and the row keys that have been read.

        Parameters
        ----------
        settings : dict of str to Any
            Dotted key to value, as from a command's options; a value of None leaves the key as it is.
        config : Config
            All settings, including the encoders.
        manifest : Manifest
            The same samples with other labels.
        samples : ProjectSamples
            Other samples. Their manifest becomes that of the derived project.
        folder : Path
            The folder of the derived project's `checkpoints/` and `.mmfeat/`; of a dry project, `.mmfeat/` stays a copy.
        memory : Path
            Replaces the folder's `.mmfeat/`.
        store : FeatureStore
            The store of the features.

        Raises
        ------
        ConfigError
            A key of `settings` is unknown, or a value is wrong.
        """
        other = copy.copy(self)
        config = self.config if config is None else config
        changed = {key: value for key, value in (settings or {}).items() if value is not None}
        other.config = with_settings(config, changed) if changed else config
        if folder is not None or manifest is not None:  # read and opened once, then shared
            other.samples, other.store = self.samples, self.store
        if other.config.data != self.config.data:
            other.__dict__.pop("samples", None)
        if other.config.store != self.config.store:
            other.__dict__.pop("store", None)
        if samples is not None:
            other.samples, other.manifest = samples, samples.manifest
        if folder is not None:
            other.folder, other.memory = folder, self.memory if self.dry else folder / ".mmfeat"
        for name, value in {"manifest": manifest, "memory": None if self.dry else memory, "store": store}.items():
            if value is not None:
                setattr(other, name, value)
        return other

    @functools.cached_property
    def samples(self) -> ProjectSamples:
        """The samples of the manifest."""
        return ProjectSamples(self.config, self.manifest, memory=self.memory)

    @property
    def sources(self) -> ImageSources:
        """The folders and archives of the images; empty if no row names an image."""
        return self.samples.sources

    def source_of(self, modality: str, name: str = "") -> str:
        """The path of a modality's samples, if an encoder's table names one: encoder `name`, else the modality's first encoder."""
        tables = [self.config.encoder.get(name), *self.config.encoder.values()]
        table = next((t for t in tables if t is not None and t.modality == modality), None)
        return kind_of(table).source(table) if table is not None else ""

    def row_keys(self, modality: str, source: str = "") -> RowKeys:
        """The key of each row's features: a digest of its image's or caption's bytes, or of its id.

        Parameters
        ----------
        source : str
            The result of :meth:`source_of`; if empty, that of the modality's first encoder.
        """
        return self.samples.row_keys(modality, source or self.source_of(modality))

    def kept_keys(self, modality: str) -> RowKeys:
        """The key of each row's features; an image that is gone keeps the key from when it was last read."""
        if not modality_kind(modality).remembered:
            return self.row_keys(modality)
        return self.samples.kept_keys(modality)

    def reader(self, name: str) -> Callable[[int], Any]:
        """A function from a row to the sample that an encoder takes."""
        kind = kind_of(self.config.encoder[name])
        return kind.reader(self.samples, self.source_of(kind.modality, name))

    def rehash(self) -> None:
        """Forget the remembered digests of images and encoders, so that everything is read again."""
        self.samples.forget_digests()
        with if_possible():
            (self.memory / "encoders.json").unlink(missing_ok=True)

    def keys_of(self, identity: Identity) -> RowKeys:
        """Row keys for an encoder. With imported embeddings, a row without an embedding is not present."""
        modality = identity.spec.modality
        if modality_kind(modality).settings.made_elsewhere:
            return self._keys_of_ids(identity.spec)
        return self.row_keys(modality, self.source_of(modality, identity.name))

    def feature_table(
        self, names: Sequence[str], need: np.ndarray | None = None, tokens: bool | Sequence[str] = False
    ) -> FeatureTable:
        """The features of the named encoders as they are now, aligned with the manifest.

        Parameters
        ----------
        need : np.ndarray, optional
            Rows whose embeddings must be in the store; all, if None.
        tokens : bool or sequence of str
            Whether to read tokens too, or for which encoders. Encoders without tokens are skipped.

        Raises
        ------
        MissingFeatures
            Some are not in the store; the message counts them and says what to type.
        """
        identities = {name: self.identity(name) for name in names}
        self.register(identities)
        with_tokens = (names if tokens else ()) if isinstance(tokens, bool) else tokens
        kept = {name: self.config.encoder[name].tokens for name in with_tokens}
        widths = {name: identity.width for name, identity in identities.items()}
        return self.table_of({n: (i.spec, i.output_key) for n, i in identities.items()}, need, kept, widths=widths)

    def table_of(
        self,
        encoders: dict[str, tuple[Any, str | None]],
        need: np.ndarray | None = None,
        tokens: dict[str, int] | None = None,
        *,
        widths: dict[str, int] | None = None,
    ) -> FeatureTable:
        """The features of given specs and output keys, aligned with the manifest.

        `widths` is the D of each encoder, needed if no row has features, for instance because every caption is blank.
        """
        manifest = self.manifest
        keys = {name: self._keys_for(name, spec) for name, (spec, _) in encoders.items()}
        return open_table(
            self.store,
            encoders,
            ids=manifest.ids,
            row_keys={name: k.keys for name, k in keys.items()},
            present={name: k.present for name, k in keys.items()},
            labels=manifest.labels,
            split=manifest.split,
            classes=manifest.classes,
            need=need,
            tokens=tokens,
            widths=widths,
        )

    def _keys_for(self, name: str, spec: EncoderSpec) -> RowKeys:
        """Row keys for reading an encoder's features. An image that is gone is present only if the encoder has encoded it."""
        kind = modality_kind(spec.modality)
        if kind.settings.made_elsewhere:
            return self._imported_keys(spec)
        if not kind.remembered:
            return self.row_keys(spec.modality, self.source_of(spec.modality, name))
        kept = self.kept_keys(spec.modality)
        if not kept.missing:
            return kept
        held = self.store.encoder(spec).lookup(kept.keys).good
        gone = np.zeros(len(held), dtype=bool)
        gone[list(kept.missing)] = True
        self.samples.say_lost(spec.architecture, int((kept.present & gone & ~held).sum()))
        return dataclasses.replace(kept, present=kept.present & (held | ~gone))

    def _keys_of_ids(self, spec: EncoderSpec) -> RowKeys:
        """Row keys of imported embeddings: digests of the ids, as the manifest or the import spells them."""
        keys, features = self.row_keys(spec.modality).keys, self.store.encoder(spec)
        present, ids = features.lookup(keys).good, self.manifest.ids
        others = [(row, name) for row in np.flatnonzero(~present).tolist() for name in spellings(ids[row])[1:]]
        if others:
            rows, other = np.array([row for row, _ in others]), id_keys([name for _, name in others])
            held = features.lookup(other).good
            keys, present = keys.copy(), present.copy()
            keys[rows[held]], present[rows[held]] = other[held], True
        return RowKeys(keys=keys, present=present)

    def _imported_keys(self, spec: EncoderSpec) -> RowKeys:
        """Row keys for reading imported embeddings. Some row of the manifest must have one; new samples need not."""
        keys = self._keys_of_ids(spec)
        if self.samples.are_new:
            return keys
        if lost := incomplete(self.store.encoder(spec)):
            raise MissingFeatures(f"{self.store.path.name}: {spec.architecture!r}: {lost}. Run: {spec.remedy}")
        if not keys.present.any():
            ids = f"{counted(len(keys.present), 'id')} of the manifest, such as {shown(self.manifest.ids[0])!r}"
            none = f"no embedding was imported for any of {ids}"
            raise MissingFeatures(f"{self.store.path.name}: {spec.architecture!r}: {none}. Run: {spec.remedy}")
        return keys
