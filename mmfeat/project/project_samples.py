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
from mmfeat.data.images.kept_bytes import KeptBytes
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, RowKeys, image_keys
from mmfeat.data.seen import load_seen, note_seen
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.kinds import modality_kind


class ProjectSamples:
    """The ids, images and captions of a manifest, and the row keys of their features.

    Parameters
    ----------
    config : Config
        An encoder kind's own samples have paths relative to its `root`.
    manifest : Manifest
        Its labels and split are not read.
    sources : ImageSources, optional
        Where the images are; by default those of `config`, opened when an image is read.
    memory : Path, optional
        The folder of remembered digests. None for new samples, whose digests are not remembered.
    """

    def __init__(
        self, config: Config, manifest: Manifest, *, sources: ImageSources | None = None, memory: Path | None
    ) -> None:
        self.config, self.manifest, self.memory = config, manifest, memory
        if sources is not None:
            self.sources = sources
        self.kept_bytes = KeptBytes()
        self._keys: dict[tuple[str, str], RowKeys] = {}
        self._kept_keys: dict[str, RowKeys] = {}
        self._facts: RowKeys | None = None
        self._reported: set[str] = set()

    @functools.cached_property
    def sources(self) -> ImageSources:
        """Where the images are; nowhere, where no row names one."""
        return image_sources(self.config) if self.manifest.images.any() else ImageSources([])

    @property
    def are_new(self) -> bool:
        """Whether these are new samples rather than those of the project's manifest."""
        return self.memory is None

    def row_keys(self, modality: str, source: str = "") -> RowKeys:
        """The key of each row's features: a digest of its image's or caption's bytes, or of its id.

        `source` is the path of an encoder kind's own samples; empty for images, captions and ids.
        """
        if (modality, source) not in self._keys:
            self._keys[modality, source] = self._read_keys(modality, source)
        return self._keys[modality, source]

    def _read_keys(self, modality: str, source: str) -> RowKeys:
        kind = modality_kind(modality)
        keys = kind.row_keys(self, source)
        if kind.remembered and self.memory is not None:  # they find the features of samples that are deleted later
            note_seen(self.seen(modality), self.manifest.ids, keys.keys, present=keys.present)
        return keys

    def image_facts(self) -> RowKeys:
        """Row keys of images, with further facts from their bytes. Files of which only the key is remembered are read again."""
        if self._facts is None:
            self._facts = image_keys(self.manifest.images, self.sources, self.digests, facts=True)
        return self._facts

    def kept_keys(self, modality: str) -> RowKeys:
        """Row keys for reading features: an image that is gone keeps the key from when it was last read.

        The store may or may not hold its features. The number of such rows is printed once.
        """
        if modality not in self._kept_keys:
            self._kept_keys[modality] = self._keys_with_gone_images(modality)
        return self._kept_keys[modality]

    def _keys_with_gone_images(self, modality: str) -> RowKeys:
        current = self._current_keys(modality)
        gone = np.array(sorted(current.missing), dtype=np.int64)
        if not len(gone) or self.memory is None:
            return current
        keys, known = load_seen(self.seen(modality), self.manifest.ids[gone])
        gone = gone[known]
        if not len(gone):
            return current
        say(f"{counted(len(gone), 'row')} lost the image since the last extract: the cached features are used")
        all_keys, present = current.keys.copy(), current.present.copy()
        all_keys[gone], present[gone] = keys[known], True
        return RowKeys(keys=all_keys, present=present, missing=current.missing, refused=current.refused)

    def _current_keys(self, modality: str) -> RowKeys:
        """Row keys; all images are missing if their folder or archive is gone."""
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
        if n_rows and model not in self._reported:
            self._reported.add(model)
            say(f"{counted(n_rows, 'row')} of these left out: no cached features by {model}")

    def seen(self, modality: str) -> Path:
        """The file of the row keys that samples had when they were last read."""
        return self.memory / f"seen-{modality}.parquet"

    def forget_digests(self) -> None:
        """Forget the remembered digests of images, so that all images are read again."""
        if (digests := self.digests) is not None:
            digests.forget()
        self.kept_bytes.clear()
        self._keys, self._kept_keys, self._facts = {}, {}, None

    def image_reader(self) -> Callable[[int], bytes]:
        """A function from a row to its image's bytes.

        It raises `UnreadSample` if the bytes cannot be read, or no longer match the row's key.
        """
        keys, sources, images = self.row_keys("image").keys, self.sources, self.manifest.images

        def read(row: int) -> bytes:
            if (read_before := self.kept_bytes.take(row)) is not None:
                return read_before
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
