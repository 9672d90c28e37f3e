"""A project: the folder of one mmfeat.toml, and everything that the commands find there."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError, MissingFeatures
from mmfeat.common.files import digest_bytes
from mmfeat.common.progress import say
from mmfeat.common.remembered import if_possible
from mmfeat.common.spelling import spellings
from mmfeat.common.text import counted, shown
from mmfeat.config.encoder_tables import EncoderTable
from mmfeat.config.reader import load_config, with_rule_for, with_settings
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data.images.image_sources import ImageSources, image_sources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, RowKeys, id_keys, image_keys
from mmfeat.data.seen import load_seen, note_seen
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.checkpoint import Checkpoint, LinearProbe
from mmfeat.encoders.families.imported_kind import incomplete
from mmfeat.encoders.kinds import kind_of, modality_kind
from mmfeat.encoders.resolve import Identity, checkpoint_of
from mmfeat.store import FeatureStore
from mmfeat.store.commits import tokens_kind
from mmfeat.store.feature_table import FeatureTable, open_table
from mmfeat.store.keys import EncoderSpec
from mmfeat.store.references import note_reference


class Project:
    """A folder with mmfeat.toml, manifest.parquet, checkpoints/, runs/ and a feature store.

    Parameters
    ----------
    folder : Path
        Where mmfeat.toml lies, or any folder below it.
    overrides : dict, optional
        Dotted key to value, stronger than the file: what a command's options say.
    dry : bool
        Whether nothing may be written, here or in the store: what is remembered is then a copy, which goes with this.

    Raises
    ------
    ConfigError
        There is no mmfeat.toml at or above the folder, or it has a mistake.
    """

    def __init__(self, folder: Path | str = ".", overrides: dict[str, Any] | None = None, dry: bool = False) -> None:
        self.dry = dry
        start = Path(folder).resolve()
        for candidate in (start, *start.parents):
            if (candidate / FILE_NAME).is_file():
                self._loaded = load_config(candidate / FILE_NAME, overrides)
                self.root = candidate
                return
        raise ConfigError(f"{start}: no {FILE_NAME} here or above. Run: mmfeat init SOURCE, or give --project DIR")

    @functools.cached_property
    def config(self) -> Config:
        """The settings; what is left out in mmfeat.toml has the default that suits the manifest's classes."""
        if "predict.empty" in self._loaded.origins or not (self.root / "manifest.parquet").is_file():
            return self._loaded
        try:
            return with_rule_for(self._loaded, len(self.manifest.classes))
        except DataError:  # what needs the manifest says what is wrong with it
            return self._loaded

    def with_settings(self, settings: dict[str, Any]) -> Project:
        """The same project with other values for some keys, as options would give them.

        Parameters
        ----------
        settings : dict of str to Any
            Dotted key to value; a value of None leaves the key as it is.

        Raises
        ------
        ConfigError
            A key is unknown, or a value is wrong.
        """
        settings = {key: value for key, value in settings.items() if value is not None}
        if not settings:
            return self
        other = copy.copy(self)
        other.config = with_settings(self.config, settings)
        return other

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def runs_folder(self) -> Path:
        """The folder of runs."""
        return self.root / "runs"

    @functools.cached_property
    def memory(self) -> Path:
        """What is only remembered: safe to delete."""
        folder = self.root / ".mmfeat"
        if not self.dry:
            return folder
        self._copied = tempfile.TemporaryDirectory(prefix="mmfeat-")  # removed when the project is done with
        copy = Path(self._copied.name) / "memory"
        if folder.is_dir():
            with if_possible():
                shutil.copytree(folder, copy)
        return copy

    def seen(self, modality: str) -> Path:
        """Where it is remembered what each sample was when it was last seen."""
        return self.memory / f"seen-{modality}.parquet"

    def note_seen(self, modality: str, keys: RowKeys) -> None:
        """Remember what the samples are that are there now: once they are gone, their features are found by it."""
        note_seen(self.seen(modality), self.manifest.ids, keys.keys, present=keys.present)

    def register(self, identities: dict[str, Identity]) -> None:
        """Note in the store that this project refers to the features of some encoders, so that nobody removes them."""
        for name, identity in identities.items():
            self.refer(identity.spec.key, identity.output_key, self.tokens_kind(name))

    def refer(self, encoder_key: str, *kinds: str | None, imported: str = "") -> None:
        """Note in the store that this project refers to an encoder's features, and to some kinds of what goes with them.

        An import is noted under its name, since mmfeat.toml does not name it yet.
        """
        if not self.dry:
            with contextlib.suppress(OSError):  # a store that only can be read: nothing can be removed from it either
                note_reference(self.store.path, self.root, encoder_key, *kinds, imported=imported)

    def tokens_kind(self, name: str) -> str | None:
        """What an encoder's tokens are filed under; None where it keeps none."""
        number = self.config.encoder[name].tokens
        return tokens_kind(number) if number else None

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The table of samples."""
        path = self.root / "manifest.parquet"
        if not path.is_file():
            raise DataError(f"{path}: no manifest yet. Run: mmfeat init {self.config.data.source or 'SOURCE'}")
        return Manifest.load(path)

    @functools.cached_property
    def store(self) -> FeatureStore:
        """The feature store."""
        return FeatureStore(self.config.path(self.config.store.path), self.config.store.dtype)

    @functools.cached_property
    def sources(self) -> ImageSources:
        """Where the images are; nowhere, where no row names one."""
        return image_sources(self.config) if self.manifest.images.any() else ImageSources([])

    @property
    def digests(self) -> DigestMemory | None:
        """Remembered digests of images; None where none are kept."""
        return DigestMemory(self.memory / "digests.parquet")

    def source_of(self, modality: str, name: str = "") -> str:
        """Where samples of a modality lie, if the table of an encoder says so: of that name, else the first of the modality."""
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
        return self._row_keys(modality, source or self.source_of(modality))

    @functools.cache  # noqa: B019 - a project lives as long as its command
    def _row_keys(self, modality: str, source: str) -> RowKeys:
        kind = modality_kind(modality)
        keys = kind.row_keys(self, source)
        if kind.remembered:
            self.note_seen(modality, keys)
        return keys

    @functools.cache  # noqa: B019 - a project lives as long as its command
    def image_facts(self) -> RowKeys:
        """Row keys of images with all else that their bytes tell: files whose key alone is remembered are read once more."""
        return image_keys(self.manifest.images, self.sources, self.digests, facts=True)

    @functools.cache  # noqa: B019 - a project lives as long as its command
    def kept_keys(self, modality: str) -> RowKeys:
        """Row keys for the right of the wall: an image that is gone has the key it had when it was last seen.

        Whether an encoder has features of it is for the store to say. The number of such rows is printed once.
        """
        if not modality_kind(modality).remembered:
            return self.row_keys(modality)
        now = self._keys_now(modality)
        gone = np.array(sorted(now.missing), dtype=np.int64)
        if not len(gone):
            return now
        keys, known = load_seen(self.seen(modality), self.manifest.ids[gone])
        gone = gone[known]
        if not len(gone):
            return now
        say(f"{counted(len(gone), 'row')} lost the image since the last extract: features as they were then")
        all_keys, present = now.keys.copy(), now.present.copy()
        all_keys[gone], present[gone] = keys[known], True
        return RowKeys(keys=all_keys, present=present, missing=now.missing, refused=now.refused)

    def _keys_now(self, modality: str) -> RowKeys:
        """Row keys; without any image where the folder or archive of the images is gone itself."""
        try:
            return self.row_keys(modality)
        except DataError as error:
            if not self.seen(modality).is_file():
                raise
            n, named = self.manifest.n_samples, np.flatnonzero(self.manifest.images != "")
            missing = dict.fromkeys(named.tolist(), str(error))
            return RowKeys(keys=np.zeros((n, 32), np.uint8), present=np.zeros(n, dtype=bool), missing=missing)

    def rehash(self) -> None:
        """Forget what is remembered of images and encoders, so that everything is read again."""
        DigestMemory(self.memory / "digests.parquet").forget()
        with if_possible():
            (self.memory / "encoders.json").unlink(missing_ok=True)

    def reader(self, name: str) -> Callable[[int], Any]:
        """Row to the sample that an encoder takes: an image's bytes, a caption.

        The reader raises `UnreadSample` where the bytes cannot be had, or are not those of the row's key any more.
        """
        kind = kind_of(self.config.encoder[name])
        return kind.reader(self, self.source_of(kind.modality, name))

    def image_reader(self) -> Callable[[int], bytes]:
        """Row to its image's bytes; raises `UnreadSample` as `reader` says."""
        keys, sources, images = self.row_keys("image").keys, self.sources, self.manifest.images

        def read(row: int) -> bytes:
            try:
                location = sources.locate(images[row])
                if location is None:
                    raise UnreadSample("not there any more")
                data = sources.read(location)
            except (OSError, DataError) as error:
                raise UnreadSample(str(error)) from None
            if digest_bytes(data) != keys[row].tobytes().hex():
                raise UnreadSample("changed while it was read")
            return data

        return read

    def encoder_table(self, name: str) -> EncoderTable:
        """An encoder's table of mmfeat.toml."""
        if name not in self.config.encoder:
            known = ", ".join(self.config.encoder)
            raise ConfigError(f"no encoder {name!r} in {FILE_NAME}. Use one of: {known}")
        return self.config.encoder[name]

    def identity(self, name: str) -> Identity:
        """An encoder's names and keys, as mmfeat.toml and its checkpoint define them now."""
        return kind_of(self.encoder_table(name)).identify(self, name)

    def pretrained(self, name: str) -> Identity:
        """An encoder's names and keys without any checkpoint: what fine-tuning starts from."""
        return kind_of(self.encoder_table(name)).identify(self, name, pretrained_only=True)

    def checkpoint(self, identity: Identity) -> Checkpoint | None:
        """The checkpoint that an encoder uses."""
        return checkpoint_of(self.config, identity, self.checkpoints)

    def output(self, identity: Identity) -> LinearProbe | None:
        """The linear output of an encoder's checkpoint."""
        checkpoint = self.checkpoint(identity)
        return checkpoint.output() if checkpoint else None

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
        return self.table_of({n: (i.spec, i.output_key) for n, i in identities.items()}, need, kept, widths)

    def table_of(
        self,
        encoders: dict[str, tuple[Any, str | None]],
        need: np.ndarray | None = None,
        tokens: dict[str, int] | None = None,
        widths: dict[str, int] | None = None,
    ) -> FeatureTable:
        """The features filed under given specs and output keys, aligned with the manifest.

        `widths` says the D of encoders whose features may be in no row: where every caption is blank, for instance.
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
        """Row keys for one encoder's features: those of images that are gone only where it has encoded them."""
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
        self._say_lost(spec.architecture, int((kept.present & gone & ~held).sum()))
        return dataclasses.replace(kept, present=kept.present & (held | ~gone))

    @functools.cache  # noqa: B019 - so that it is printed once
    def _say_lost(self, model: str, n_rows: int) -> None:
        if n_rows:
            say(f"{counted(n_rows, 'row')} of these, as they were last, have no features by {model}: left out")

    def keys_of(self, identity: Identity) -> RowKeys:
        """Row keys of the rows that an encoder takes; of imported embeddings only those that are there are present."""
        modality = identity.spec.modality
        if modality_kind(modality).settings.made_elsewhere:
            return self.keys_of_ids(identity.spec)
        return self.row_keys(modality, self.source_of(modality, identity.name))

    def keys_of_ids(self, spec: EncoderSpec) -> RowKeys:
        """Row keys of imported embeddings, of the ids as they are spelled here or as the import has them."""
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
        """Row keys of imported embeddings, right of the wall; it is a mistake where not one is of a row of the manifest."""
        keys, lost = self.keys_of_ids(spec), incomplete(self.store.encoder(spec))
        if lost or not keys.present.any():
            none = f"none was imported for one of {counted(len(keys.present), 'id')} of the manifest, as {shown(self.manifest.ids[0])!r}"
            raise MissingFeatures(f"{self.store.path.name}: {spec.architecture!r}: {lost or none}. Run: {spec.remedy}")
        return keys
