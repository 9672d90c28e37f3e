"""A project's rows and store with other settings, so that nothing of the project's own changes: comparisons and sweeps."""

from __future__ import annotations

from pathlib import Path

from mmfeat.config.schema import Config
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import RowKeys
from mmfeat.project.project import Project
from mmfeat.store import FeatureStore


class Overlay(Project):
    """The same samples, split and store; checkpoints and what is remembered of encoders lie in a folder of its own.

    Parameters
    ----------
    host : Project
        Whose rows they are. What it remembers of its samples' bytes is shared.
    folder : Path
        Where `checkpoints/` and `.mmfeat/` of this go.
    config : Config
        The settings, among them the encoders.
    memory : Path, optional
        In place of the folder's own `.mmfeat/`.
    store : FeatureStore, optional
        In place of the host's.
    manifest : Manifest, optional
        In place of the host's: the same samples with other labels.
    """

    def __init__(
        self,
        host: Project,
        folder: Path,
        config: Config,
        memory: Path | None = None,
        store: FeatureStore | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        self.host, self.folder, self.config, self.root, self.dry = host, folder, config, host.root, host.dry
        self.__dict__ |= {
            "manifest": manifest or host.manifest,
            "store": store or host.store,
            "memory": memory or folder / ".mmfeat",
        }

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def sources(self) -> ImageSources:
        """Where the images are."""
        return self.host.sources

    def row_keys(self, modality: str, source: str = "") -> RowKeys:
        """Digests of the samples' bytes, read once for all that share them."""
        return self.host.row_keys(modality, source or self.source_of(modality))

    def kept_keys(self, modality: str) -> RowKeys:
        """The same, with those of images that are gone as they were."""
        return self.host.kept_keys(modality)
