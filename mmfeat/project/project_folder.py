"""The folder of a project: mmfeat.toml, the manifest, checkpoints, runs and remembered digests."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.remembered import Stamps, if_possible, stamps_of
from mmfeat.config.reader import load_config, with_rule_for
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data.manifest import Manifest

MANIFEST = "manifest.parquet"


class ProjectFolder:
    """Paths, settings and the manifest of a project, as they were when it was opened.

    Parameters
    ----------
    folder : Path
        The folder of mmfeat.toml, or any folder below it.
    overrides : dict, optional
        Dotted key to value, from a command's options. They override mmfeat.toml.
    dry : bool
        Whether nothing may be written, here or in the store. `.mmfeat/` is then a temporary copy, removed with this object.

    Raises
    ------
    ConfigError
        There is no mmfeat.toml in the folder or above it, or it has a mistake.
    """

    def __init__(self, folder: Path | str = ".", overrides: dict[str, Any] | None = None, dry: bool = False) -> None:
        self.dry, self.overrides = dry, dict(overrides or {})
        self.root = _root_of(Path(folder).resolve())
        self.folder = self.root  # of checkpoints and .mmfeat/; a derived project may have another
        self._stamps = self._current_stamps()
        self._loaded = load_config(self.root / FILE_NAME, overrides)

    def reopened(self) -> Self:
        """A new snapshot of the project's folder. Parts that `derived` replaced are not replaced in it."""
        return type(self)(self.root, self.overrides, self.dry)

    def has_changed(self) -> bool:
        """Whether mmfeat.toml, the manifest or a checkpoint has changed since the project was opened."""
        return self._stamps != self._current_stamps()

    @functools.cached_property
    def config(self) -> Config:
        """The settings. `predict.empty` has a default that depends on the number of classes."""
        if "predict.empty" in self._loaded.origins or not (self.root / MANIFEST).is_file():
            return self._loaded
        try:
            return with_rule_for(self._loaded, len(self.manifest.classes))
        except DataError:  # the commands that need the manifest report it
            return self._loaded

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The table of samples."""
        path = self.root / MANIFEST
        if not path.is_file():
            raise DataError(f"{path}: no manifest yet. Run: mmfeat init {self.config.data.source or 'SOURCE'}")
        return Manifest.load(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def runs_folder(self) -> Path:
        """The folder of runs."""
        return self.root / "runs"

    @functools.cached_property
    def memory(self) -> Path:
        """The folder of remembered digests and measurements, `.mmfeat/`: safe to delete."""
        folder = self.root / ".mmfeat"
        if not self.dry:
            return folder
        self._copied = tempfile.TemporaryDirectory(prefix="mmfeat-")  # removed with the last project that shares it
        copy = Path(self._copied.name) / "memory"
        if folder.is_dir():
            with if_possible():
                shutil.copytree(folder, copy)
        return copy

    def _current_stamps(self) -> Stamps:
        records = sorted((self.root / "checkpoints").glob("*/checkpoint.json"))
        return stamps_of([self.root / FILE_NAME, self.root / MANIFEST, *records])


def _root_of(start: Path) -> Path:
    for candidate in (start, *start.parents):
        if (candidate / FILE_NAME).is_file():
            return candidate
    raise ConfigError(f"{start}: no {FILE_NAME} here or above. Run: mmfeat init SOURCE, or give --project DIR")
