"""Samples of a project and their row keys: digests of their bytes, read once for all projects that share them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.files import digest_bytes
from mmfeat.common.progress import say
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.images.image_sources import ImageSources, image_sources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, RowKeys, image_keys
from mmfeat.data.seen import load_seen, note_seen
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.kinds import modality_kind


class ProjectSamples:
    """The ids, images and captions of a manifest, and what each row's features are filed under.

    Parameters
    ----------
    config : Config
        Relative paths of an encoder kind's own samples start at its `root`.
    manifest : Manifest
        Its labels and split are not read.
    sources : ImageSources, optional
        Where the images are; by default those of `config`, opened when an image is read.
    memory : Path, optional
        The folder in which digests are remembered. None for new samples, of which nothing is remembered.
    """

    def __init__(
        self, config: Config, manifest: Manifest, *, sources: ImageSources | None = None, memory: Path | None
    ) -> None:
        self.config, self.manifest, self.memory = config, manifest, memory
        if sources is not None:
            self.sources = sources
        self._keys: dict[tuple[str, str], RowKeys] = {}
        self._kept_keys: dict[str, RowKeys] = {}
        self._facts: RowKeys | None = None
        self._told: set[str] = set()

    @functools.cached_property
    def sources(self) -> ImageSources:
        """Where the images are; nowhere, where no row names one."""
        return image_sources(self.config) if self.manifest.images.any() else ImageSources([])

    @property
    def are_new(self) -> bool:
        """Whether these are new samples rather than those of the project's manifest."""
        return self.memory is None

    def row_keys(self, modality: str, source: str = "") -> RowKeys:
        """What each row's features are filed under: digests of its image's or caption's bytes, or of its id.

        `source` is where an encoder kind finds its own samples; empty for images, captions and ids.
        """
        if (modality, source) not in self._keys:
            self._keys[modality, source] = self._read_keys(modality, source)
        return self._keys[modality, source]

    def _read_keys(self, modality: str, source: str) -> RowKeys:
        kind = modality_kind(modality)
        keys = kind.row_keys(self, source)
        if kind.remembered and self.memory is not None:  # once samples are gone, their features are found by these keys
            note_seen(self.seen(modality), self.manifest.ids, keys.keys, present=keys.present)
        return keys

    def image_facts(self) -> RowKeys:
        """Row keys of images with all else that their bytes tell; files of which only the key is known are read again."""
        if self._facts is None:
            self._facts = image_keys(self.manifest.images, self.sources, self.digests, facts=True)
        return self._facts

    def kept_keys(self, modality: str) -> RowKeys:
        """Row keys to read features by: an image that is gone has the key that it had when it was last seen.

        Whether there are features of it is a question to the store. The number of such rows is printed once.
        """
        if modality not in self._kept_keys:
            self._kept_keys[modality] = self._with_gone(modality)
        return self._kept_keys[modality]

    def _with_gone(self, modality: str) -> RowKeys:
        if not modality_kind(modality).remembered:
            return self.row_keys(modality)
        now = self._keys_now(modality)
        gone = np.array(sorted(now.missing), dtype=np.int64)
        if not len(gone) or self.memory is None:
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
            if self.memory is None or not self.seen(modality).is_file():
                raise
            n, named = self.manifest.n_samples, np.flatnonzero(self.manifest.images != "")
            missing = dict.fromkeys(named.tolist(), str(error))
            return RowKeys(keys=np.zeros((n, 32), np.uint8), present=np.zeros(n, dtype=bool), missing=missing)

    def say_lost(self, model: str, n_rows: int) -> None:
        """Print once how many rows that lost their image have no features by an encoder."""
        if n_rows and model not in self._told:
            self._told.add(model)
            say(f"{counted(n_rows, 'row')} of these, as they were last, have no features by {model}: left out")

    def seen(self, modality: str) -> Path:
        """The file in which it is remembered what each sample was when it was last seen."""
        return self.memory / f"seen-{modality}.parquet"

    def forget_digests(self) -> None:
        """Forget what is remembered of images, so that all are read again."""
        if (digests := self.digests) is not None:
            digests.forget()
        self._keys, self._kept_keys, self._facts = {}, {}, None

    def image_reader(self) -> Callable[[int], bytes]:
        """Row to its image's bytes.

        The reader raises `UnreadSample` where the bytes cannot be read, or are no longer those of the row's key.
        """
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

    @property
    def digests(self) -> DigestMemory | None:
        """Remembered digests of images; None for new samples, whose images are all read."""
        return None if self.memory is None else DigestMemory(self.memory / "digests.parquet")
