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

    It is a snapshot: settings, manifest and row keys are read once, so that all that is computed from them fits together.
    `reopened` gives a new snapshot, `has_changed` tells whether one is due.
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
        """The same project with something replaced; the project itself stays as it is.

        What is not replaced is shared, as are row keys that have been read.

        Parameters
        ----------
        settings : dict of str to Any
            Dotted key to value, as options give them; a value of None leaves the key as it is.
        config : Config
            All settings, among them the encoders.
        manifest : Manifest
            The same samples with other labels.
        samples : ProjectSamples
            Other samples: their manifest is that of the derived project.
        folder : Path
            Where `checkpoints/` and `.mmfeat/` of the derived project lie.
        memory : Path
            In place of the folder's own `.mmfeat/`.
        store : FeatureStore
            Where the features lie.

        Raises
        ------
        ConfigError
            A key of `settings` is unknown, or a value is wrong.
        """
        other = copy.copy(self)
        config = self.config if config is None else config
        changed = {key: value for key, value in (settings or {}).items() if value is not None}
        other.config = with_settings(config, changed) if changed else config
        if folder is not None or manifest is not None:  # read and opened once for all that share them
            other.samples, other.store = self.samples, self.store
        if other.config.data != self.config.data:
            other.__dict__.pop("samples", None)
        if other.config.store != self.config.store:
            other.__dict__.pop("store", None)
        if samples is not None:
            other.samples, other.manifest = samples, samples.manifest
        if folder is not None:
            other.folder, other.memory = folder, folder / ".mmfeat"
        for name, value in {"manifest": manifest, "memory": memory, "store": store}.items():
            if value is not None:
                setattr(other, name, value)
        return other

    @functools.cached_property
    def samples(self) -> ProjectSamples:
        """The samples of the manifest."""
        return ProjectSamples(self.config, self.manifest, memory=self.memory)

    @property
    def sources(self) -> ImageSources:
        """Where the images are; nowhere, where no row names one."""
        return self.samples.sources

    def source_of(self, modality: str, name: str = "") -> str:
        """Where the samples of a modality lie, if an encoder's table says so: that of `name`, else the first of the modality."""
        tables = [self.config.encoder.get(name), *self.config.encoder.values()]
        table = next((one for one in tables if one is not None and one.modality == modality), None)
        return kind_of(table).source(table) if table is not None else ""

    def row_keys(self, modality: str, source: str = "") -> RowKeys:
        """What each row's features are filed under: digests of its image's or caption's bytes, or of its id.

        Parameters
        ----------
        source : str
            As :meth:`source_of` gives it; that of the first encoder of the modality, when empty.
        """
        return self.samples.row_keys(modality, source or self.source_of(modality))

    def kept_keys(self, modality: str) -> RowKeys:
        """The same; an image that is gone has the key that it had when it was last seen."""
        return self.samples.kept_keys(modality)

    def reader(self, name: str) -> Callable[[int], Any]:
        """Row to the sample that an encoder takes, as the reader of its kind gives it."""
        kind = kind_of(self.config.encoder[name])
        return kind.reader(self.samples, self.source_of(kind.modality, name))

    def rehash(self) -> None:
        """Forget what is remembered of images and encoders, so that everything is read again."""
        self.samples.forget_digests()
        with if_possible():
            (self.memory / "encoders.json").unlink(missing_ok=True)

    def keys_of(self, identity: Identity) -> RowKeys:
        """Row keys of the rows that an encoder takes; of imported embeddings only those that are there are present."""
        modality = identity.spec.modality
        if modality_kind(modality).settings.made_elsewhere:
            return self._keys_of_ids(identity.spec)
        return self.row_keys(modality, self.source_of(modality, identity.name))

    def table(
        self, names: Sequence[str], need: np.ndarray | None = None, tokens: bool | Sequence[str] = False
    ) -> FeatureTable:
        """The features of the named encoders as they are now, aligned with the manifest.

        Parameters
        ----------
        need : np.ndarray, optional
            Rows whose embeddings must be there; all, when None.
        tokens : bool or sequence of str
            Whether, or of which of the encoders, tokens are read as well, where they keep some.

        Raises
        ------
        MissingFeatures
            Some are not in the store; the message counts them and says what to type.
        """
        identities = {name: self.identity(name) for name in names}
        self.register(identities)
        asked = (names if tokens else ()) if isinstance(tokens, bool) else tokens
        kept = {name: self.config.encoder[name].tokens for name in asked}
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
        """The features filed under given specs and output keys, aligned with the manifest.

        `widths` gives the D of encoders that may have features of no row: where every caption is blank, for instance.
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
        """Row keys to read an encoder's features by: those of images that are gone only where it has encoded them."""
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
        """Row keys of imported embeddings, of the ids as they are spelled here or as the import spells them."""
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
        """Row keys to read imported embeddings by; none for any row of the manifest is a mistake, not so for new samples."""
        keys = self._keys_of_ids(spec)
        if self.samples.are_new:
            return keys
        if lost := incomplete(self.store.encoder(spec)):
            raise MissingFeatures(f"{self.store.path.name}: {spec.architecture!r}: {lost}. Run: {spec.remedy}")
        if not keys.present.any():
            ids = f"{counted(len(keys.present), 'id')} of the manifest, as {shown(self.manifest.ids[0])!r}"
            none = f"none was imported for one of {ids}"
            raise MissingFeatures(f"{self.store.path.name}: {spec.architecture!r}: {none}. Run: {spec.remedy}")
        return keys
