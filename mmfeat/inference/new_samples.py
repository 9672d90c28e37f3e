"""Samples that are not a project's own, on their way through its encoders and its store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import RowKeys
from mmfeat.project.project import Project
from mmfeat.store import EncoderSpec


class NewSamples(Project):
    """A project's encoders and store over other samples; what the project remembers of its own is left alone.

    Parameters
    ----------
    host : Project
        Whose encoders encode, and whose store keeps the features.
    sources : ImageSources
        Where the images of these samples are.
    """

    def __init__(
        self, host: Project, ids: list[str], images: list[str], captions: list[str], sources: ImageSources
    ) -> None:
        self.config, self.root, self.dry = host.config, host.root, host.dry
        n, classes = len(ids), host.manifest.classes
        texts = {"ids": ids, "images": images, "captions": captions}
        texts = {name: np.array(values, dtype=object) for name, values in texts.items()}
        labels, split = np.full((n, len(classes)), -1, np.int8), np.full(n, "train", dtype=object)
        manifest = Manifest(**texts, labels=labels, split=split, classes=classes)
        self.__dict__ |= {"manifest": manifest, "sources": sources, "store": host.store}

    @property
    def digests(self) -> None:
        """None: every image is read, since none of them was seen before."""
        return None

    def note_seen(self, modality: str, keys: RowKeys) -> None:
        """Remember nothing."""

    def seen(self, modality: str) -> Path:
        """Nowhere: these samples have no past."""
        return self.memory / "no-guest-was-seen"

    def _imported_keys(self, spec: EncoderSpec) -> RowKeys:
        """Imported embeddings may well have none of these samples: what is not there is absent."""
        return self.keys_of_ids(spec)
