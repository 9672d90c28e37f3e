"""Where images are: folders, zip and tar files, read in place."""

from __future__ import annotations

import glob
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmfeat.config import Config
from mmfeat.data.archives import (
    ARCHIVES,
    NO_RANDOM_ACCESS,
    Archive,
    Facts,
    check_size,
    facts,
    open_archive,
)
from mmfeat.data.imagenames import IMAGE_SUFFIXES, ImageNames, Location
from mmfeat.errors import DataError
from mmfeat.texts import counted, shown

_RACY_NS = 2_000_000_000  # coarser than the clock ticks of any file system in use


class ImageSources:
    """Images by name, wherever they lie.

    A name matches as :class:`ImageNames` says. Archives and folders are listed when the first name is asked for.

    Parameters
    ----------
    patterns : iterable of Path or str
        Folders, zip and tar files; `*` and `?` are expanded.
    setting : str
        What the patterns come from, for messages.

    Raises
    ------
    DataError
        A pattern matches nothing, or something else.
    """

    def __init__(self, patterns: Iterable[Path | str], setting: str = "images under [data] in mmfeat.toml") -> None:
        self.containers = _expand(patterns, setting)
        self._lock = threading.Lock()
        self._listed = False
        self._archives: dict[str, Archive] = {}
        self._names = ImageNames()
        self._empty: list[Path] = []

    @classmethod
    def of_file(cls, file: Path) -> ImageSources:
        """One image, by its file's name; nothing around it is looked at."""
        sources = cls([])
        sources._names.add(file.name, Location(str(file)))
        sources._listed = True
        return sources

    def add_files(self, files: Sequence[Path]) -> None:
        """Add single images, by their files' names; by their whole paths where several are called the same."""
        if not self._listed:
            self._list()
        names = [file.name for file in files]
        for file in files:
            self._names.add(file.name if names.count(file.name) == 1 else file.as_posix(), Location(str(file)))

    def locate(self, name: str) -> Location | None:
        """Where an image is; None where it is nowhere, or its name would leave the folders. Safe in threads.

        Raises
        ------
        DataError
            Several images have this name; an archive is damaged, or one of its members would leave its folder.
        """
        if not self._listed:
            self._list()
        return self._names.find(name)

    def names(self) -> list[str]:
        """The paths of all images inside their folders and archives, sorted."""
        self.locate("")
        return self._names.paths()

    def empty(self) -> list[Path]:
        """Folders and archives without any image."""
        self.locate("")
        return self._empty

    def read(self, location: Location) -> bytes:
        """An image's bytes; safe in threads.

        Raises
        ------
        OSError, DataError
            They cannot be read, or are more than an image has.
        """
        if location.member is not None:
            return self._archives[location.file].read(location.member, location.place)
        status = os.stat(location.file)
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            raise DataError(f"{location.file}: not a plain file")
        try:
            check_size(status.st_size)
        except ValueError as error:
            raise DataError(f"{location.file}: {error}") from None
        return Path(location.file).read_bytes()

    def stamps(self, locations: Iterable[Location | None]) -> Iterator[tuple[int, ...] | None]:
        """Size, time and inode of each image's file, and its place in an archive: as long as they stay, so do its bytes.

        None where that is not so: there is no file, an archive is not the one that was listed, or the file changed so
        shortly before now (or, by a clock that was set back, after now) that a further change might leave its time as it
        is. To trust bytes that were read, compare the stamps from before and after.
        """
        archives: dict[str, Facts | None] = {}
        for location in locations:
            if location is None:
                yield None
            elif location.member is None:
                yield _settled(location.file)
            else:
                if location.file not in archives:
                    archives[location.file] = self._archive_stamp(location.file)
                outer = archives[location.file]
                yield None if outer is None else (*outer, *location.place)

    def state(self) -> list[tuple[str, Facts]] | None:
        """Path and stamp of each archive: as long as they stay, every name has the same bytes.

        None where that cannot be told without looking at single files: there are folders, or an archive has no stamp.
        """
        files = [str(path) for path in self.containers]
        stamps = [None if path.is_dir() else self._archive_stamp(str(path)) for path in self.containers]
        return list(zip(files, stamps, strict=True)) if files and None not in stamps else None

    def _archive_stamp(self, file: str) -> Facts | None:
        stamp, archive = _settled(file), self._archives.get(file)
        return stamp if archive is None or archive.facts == stamp else None

    def _list(self) -> None:
        with self._lock:
            if self._listed:
                return
            self._names, self._empty = ImageNames(), []
            for container in self.containers:
                found = _in_folder(container) if container.is_dir() else self._in_archive(str(container))
                for path, location in found.items():
                    self._names.add(path, location)
                if not found:
                    self._empty.append(container)
            self._listed = True

    def _in_archive(self, file: str) -> dict[str, Location]:
        """Path to place; of members with one name the last counts, as it does for who unpacks."""
        archive = self._archives[file] = open_archive(file)
        return {
            name: Location(file, name, place)
            for name, place in archive.members()
            if name.lower().endswith(IMAGE_SUFFIXES)
        }


def _in_folder(folder: Path) -> dict[str, Location]:
    found = {}
    start = len(os.path.join(folder, ""))
    for root, _, files in os.walk(folder):
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES):
                full = os.path.join(root, name)
                found[full[start:].replace("\\", "/")] = Location(full)
    return found


def nothing_found(names: Sequence[str], sources: ImageSources) -> DataError:
    """The error of names none of which is there: it says what was looked for, where, and what is there."""
    wanted, there = [name for name in names if name], sources.names()
    where = ", ".join(map(str, sources.containers[:3])) + (" ..." if len(sources.containers) > 3 else "")
    found = (
        f"{counted(len(there), 'image')} there, like {shown(repr(there[0]))}"
        if there
        else f"there is no image at all ({', '.join(IMAGE_SUFFIXES)})"
    )
    return DataError(
        f"images: none of {counted(len(wanted), 'name')} like {shown(repr(wanted[0]))} found in {where}: {found}. "
        f"Name the images' place: --images PATH, or their column: --image COLUMN"
    )


def image_sources(config: Config) -> ImageSources:
    """The images that `[data]` names or, where it names none, those beside the source.

    Raises
    ------
    DataError
        What is named is not there, or there is no source to look beside.
    """
    if not config.data.images:
        return ImageSources(_beside(config.path(config.data.source)))
    patterns = [config.path(text) for text in config.data.images]
    return (
        ImageSources(patterns, "--images") if config.origins.get("data.images") == "option" else ImageSources(patterns)
    )


def _beside(source: Path) -> list[Path]:
    """Zip and tar files, or else a folder of images, in a source's folder."""
    if not source.exists():
        raise DataError(
            f"{source}: the source is not there, so that no images can be found beside it. "
            f"Bring it back, or name it as source under [data] in mmfeat.toml"
        )
    folder = source if source.is_dir() else source.parent
    folder = folder.parent if folder.name == "annotations" else folder  # as COCO's files lie
    archives = sorted(path for suffix in ARCHIVES for path in folder.glob(f"*{suffix}"))
    archives = [path for path in archives if not path.name.startswith("annotations")]
    folders = [folder / name for name in ("images", "data", "train") if (folder / name).is_dir()]
    return archives or folders or [folder]


def image_files_beside(source: Path) -> bool:
    """Whether archives or image files lie beside a source, or in a folder there; nothing deeper is looked at."""
    for place in _beside(source):
        if not place.is_dir() or _has_images(place):
            return True
        if any(_has_images(folder) for folder in place.iterdir() if folder.is_dir()):
            return True
    return False


def unreadable_archives(folder: Path) -> list[Path]:
    """Archives in a folder that cannot be read in place."""
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith((*NO_RANDOM_ACCESS, ".7z", ".rar")))


def _has_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries)
    except OSError:
        return False


def images_beside(table: Path) -> ImageSources:
    """The images that lie beside a table: in zip and tar files, or else in a folder.

    Raises
    ------
    DataError
        The table is not there.
    """
    return ImageSources(_beside(table))


def _expand(patterns: Iterable[Path | str], setting: str) -> list[Path]:
    containers: dict[Path, None] = {}
    for pattern in patterns:
        text = str(pattern)
        found = [text] if os.path.exists(text) else sorted(glob.glob(text))
        if not found:
            raise DataError(f"images: nothing at {text}. Give a folder, zip or tar files as {setting}")
        for path in map(Path, found):
            if path.name.lower().endswith(NO_RANDOM_ACCESS):
                raise DataError(
                    f"images: {path} is compressed as a whole, so single images cannot be read from it. "
                    f"Unpack it, or make it anew as .tar"
                )
            if not path.is_dir() and path.suffix.lower() not in ARCHIVES:
                raise DataError(f"images: {path} is neither a folder nor a zip or tar file")
            containers[path] = None
    return list(containers)


def _settled(file: str) -> Facts | None:
    """A file's facts, or None where they might stay although the file changes, or there is no file."""
    now = time.time_ns()
    try:
        found = facts(os.stat(file))
    except OSError:
        return None
    return found if found[1] < now - _RACY_NS else None
