"""Files that no output may replace: the inputs of a command, and the files of a project."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data.images.archives import ARCHIVES
from mmfeat.data.images.image_names import IMAGE_SUFFIXES

FILES = (FILE_NAME, "manifest.parquet", "corrections.csv", "groups.csv", "init.log", "audit.json")
FOLDERS = ("checkpoints", "runs", "comparisons", "sweeps", "reviews", ".mmfeat")
_TABLES = ("train.csv", "test.csv")  # of a source that is the project's own folder, in addition to COCO's .json


@dataclass(frozen=True)
class Guard:
    """A file, or a folder with everything in it.

    Attributes
    ----------
    what : str
        Its description in messages.
    suffixes : tuple of str
        Suffixes of the files in a folder that are guarded. Empty: all.
    names : tuple of str
        Names of further files in a folder that are guarded.
    unless_made : bool
        Whether files in the folder that mmfeat wrote may be replaced.
    """

    path: Path
    what: str
    suffixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    unless_made: bool = False

    def covers(self, target: Path, is_made: bool) -> bool:
        """Whether a resolved path is this file or a file in this folder, also by another name or a hard link."""
        if self.path.is_dir():
            return not (is_made and self.unless_made) and target.exists() and self._holds(target)
        same_name = target.name.casefold() == self.path.name.casefold()
        return _same(target, self.path) or (same_name and _same(target.parent, self.path.parent))

    def _counts(self, name: str) -> bool:
        every = not self.suffixes and not self.names
        return every or name.lower().endswith(self.suffixes) or name in self.names

    def _holds(self, target: Path) -> bool:
        if self._counts(target.name) and any(_same(folder, self.path) for folder in target.parents):
            return True
        if target.stat().st_nlink < 2:
            return False
        return any(  # a hard link to a file in the folder
            self._counts(name) and _same(target, Path(folder, name))
            for folder, _, files in os.walk(self.path)
            for name in files
        )


def guards_of_inputs(inputs: Iterable[Path | str]) -> list[Guard]:
    """Guards of the files that a command reads, and of the images in the folders that it reads."""
    places = [Path(place).expanduser() for text in inputs if str(text) for place in _expanded(str(text))]
    what = "an input of this command"
    return [Guard(place.resolve(), what, IMAGE_SUFFIXES if _has_images(place) else ()) for place in places]


def guards_of_project(root: Path, config: Config | None) -> list[Guard]:
    """Guards of a project's own files and, with its configuration, of the files that mmfeat.toml names."""
    guards = [Guard(root / name, f"{name} of the project {root}") for name in FILES]
    guards += [Guard(root / name, f"a file in {name}/ of the project {root}") for name in FOLDERS]
    store = config.path(config.store.path) if config is not None else root / "features"
    guards.append(Guard(store, f"a file of the feature store {store}"))
    if config is None:
        return guards
    for text in config.data.images:
        guards += [
            Guard(p, f"an image of the project {root}", _PICTURES) for p in map(Path, _expanded(str(config.path(text))))
        ]
    guards += _of_source(config)
    named = [config.data.classes, config.finetune.synonyms]
    for table in config.encoder.values():
        named += table.files
    paths = [config.path(text) for text in named if text]
    return guards + [Guard(path, f"named in {FILE_NAME} of the project {root}") for path in paths if path.exists()]


_PICTURES = (*IMAGE_SUFFIXES, *ARCHIVES)


def _of_source(config: Config) -> list[Guard]:
    if not config.data.source:
        return []
    source, what = config.path(config.data.source), f"a file of the source of the project {config.root}"
    folder = source if source.is_dir() else source.parent
    pictures = Guard(folder, what, _PICTURES, unless_made=True)
    if not source.is_dir():
        return [Guard(source, what), pictures]
    if config.root.resolve().is_relative_to(source.resolve()):  # it contains the project's own files too
        return [Guard(folder, what, (*_PICTURES, ".json"), _TABLES, unless_made=True)]
    return [Guard(source, what, unless_made=True)]


def _expanded(text: str) -> list[str]:
    return [text] if os.path.exists(text) else sorted(glob.glob(text)) or [text]


def _has_images(place: Path) -> bool:
    return place.is_dir() and not (place / "mmfeat.json").is_file()  # an exported model is guarded as a whole


def _same(a: Path, b: Path) -> bool:
    try:
        return a == b or os.path.samefile(a, b)
    except OSError:
        return False
