"""The sources of a project's images: folders, zip and tar files, read in place."""

from __future__ import annotations

import glob
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.common.remembered import Stamp, stamp_of
from mmfeat.common.spelling import spellings
from mmfeat.common.text import shown
from mmfeat.config.schema import Config
from mmfeat.data.images.archives import (
    ARCHIVES,
    NO_RANDOM_ACCESS,
    Archive,
    check_size,
    clean_name,
    open_archive,
    undecoded,
)
from mmfeat.data.images.folders import list_folder
from mmfeat.data.images.image_kinds import HEAD, begins_as_image
from mmfeat.data.images.image_names import COMMON_SUFFIXES, IMAGE_SUFFIXES, ImageNames, Location
from mmfeat.data.tables.shards import is_pattern, source_folder

_RACY_NS = 2_000_000_000  # coarser than the clock ticks of any file system in use


class UnlistedFolder(DataError):
    """An image may be in a folder that cannot be listed."""


class ImageSources:
    """Images by name, in folders and archives.

    :class:`ImageNames` defines how a name matches. Archives and folders are listed when the first name is looked up.

    Parameters
    ----------
    patterns : iterable of Path or str
        Folders, zip and tar files; `*` and `?` are expanded.
    setting : str
        The setting that holds the patterns, for messages.

    Raises
    ------
    DataError
        A pattern matches nothing, or a file of another kind.
    """

    def __init__(self, patterns: Iterable[Path | str], setting: str = "images under [data] in mmfeat.toml") -> None:
        self.containers = _expand(patterns, setting)
        self._lock = threading.Lock()
        self._listed = False
        self._archives: dict[str, Archive] = {}
        self._names = ImageNames()
        self._further = ImageNames()  # less common formats, and files behind links to folders
        self._plain: dict[str, Location] = {}  # members without an image's suffix
        self._by_content: dict[str, Location] = {}
        self._unlisted: dict[str, str] = {}
        self._empty: dict[Path, list[Location]] = {}  # places without an image's suffix, and their files

    @classmethod
    def of_file(cls, file: Path) -> ImageSources:
        """One image, by its file's name; its folder is not listed."""
        sources = cls([])
        sources._names.add(file.name, Location(str(file)))
        sources._listed = True
        return sources

    def add_files(self, files: Sequence[Path]) -> None:
        """Add single images by their files' names, or by their whole paths if names repeat."""
        if not self._listed:
            self._list()
        names = [file.name for file in files]
        for file in files:
            self._names.add(file.name if names.count(file.name) == 1 else file.as_posix(), Location(str(file)))

    def locate(self, name: str) -> Location | None:
        """The location of an image; None if it does not exist or its name leaves the folders. Thread-safe.

        A file without an image's suffix is found by its whole path if its first bytes are those of an image.

        Raises
        ------
        DataError
            Several images have this name; an archive is damaged or a member leaves its folder; or the image is not found
            and a folder cannot be listed.
        """
        if not self._listed:
            self._list()
        found = (
            self._names.exact(name) or self._further.exact(name) or self._names.find(name) or self._further.find(name)
        )
        if found is None and name:
            found = self._by_content.get(name) or self._told_by_content(name)
            if found is None and self._unlisted:
                folder, reason = next(iter(self._unlisted.items()))
                raise UnlistedFolder(
                    f"{folder}: cannot be listed ({reason}), and image {shown(repr(name))} is not elsewhere. "
                    f"Allow the folder to be read, or name other places: --images PATH"
                )
        return found

    def holds(self, name: str) -> bool:
        """Whether any image has this name, in folders that can be listed."""
        try:
            return self.locate(name) is not None
        except UnlistedFolder:
            return False
        except DataError:
            return True

    def names(self) -> list[str]:
        """The sorted paths of all images, relative to their folders and archives."""
        self.locate("")
        return sorted([*self._names.paths(), *self._further.paths()])

    def empty(self) -> list[Path]:
        """Folders and archives without images, by name or by content."""
        self.locate("")
        return [place for place, files in self._empty.items() if not any(self._is_image(file) for file in files)]

    def read(self, location: Location) -> bytes:
        """An image's bytes; thread-safe.

        Raises
        ------
        OSError, DataError
            The file cannot be read, or is larger than any image.
        """
        if location.member is not None:
            return self._archives[location.file].read(location.member, location.place)
        status = os.stat(location.file)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise DataError(f"{location.file}: not a plain file")
        try:
            check_size(status.st_size)
        except ValueError as error:
            raise DataError(f"{location.file}: {error}") from None
        return Path(location.file).read_bytes()

    def stamps(self, locations: Iterable[Location | None]) -> Iterator[tuple[int, ...] | None]:
        """Size, time and inode of each image's file, and its place in an archive: while they stay the same, so do its bytes.

        None if they do not guarantee that: there is no file, the archive has changed since it was listed, or the file
        changed so recently (or in the future, if a clock was set back) that another change might not change its time. To
        trust bytes that were read, compare the stamps from before and after.
        """
        archives: dict[str, Stamp | None] = {}
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

    def state(self) -> list[tuple[str, Stamp]] | None:
        """Path and stamp of each archive: while they stay the same, so do the bytes of every name.

        None if single files would have to be checked: there are folders, or an archive has no stamp.
        """
        files = [str(path) for path in self.containers]
        stamps = [None if path.is_dir() else self._archive_stamp(str(path)) for path in self.containers]
        return list(zip(files, stamps, strict=True)) if files and None not in stamps else None

    def _archive_stamp(self, file: str) -> Stamp | None:
        stamp, archive = _settled(file), self._archives.get(file)
        return stamp if archive is None or archive.stamp == stamp else None

    def _list(self) -> None:
        with self._lock:
            if self._listed:
                return
            self._names, self._further, self._empty = ImageNames(), ImageNames(), {}
            self._plain, self._unlisted = {}, {}
            for container in self.containers:
                others = self._add_folder(container) if container.is_dir() else self._add_archive(str(container))
                if others is not None:
                    self._empty[container] = others
            self._listed = True

    def _add_folder(self, folder: Path) -> list[Location] | None:
        """Add a folder's images; returns all its files if it has no images."""
        listing, any_image = list_folder(folder), False
        if reason := listing.unlisted.get(str(folder)):
            raise DataError(f"{folder}: cannot be listed ({reason}). Allow the folder to be read, or name another")
        self._unlisted |= listing.unlisted
        for path, file in listing.files.items():
            if path.lower().endswith(IMAGE_SUFFIXES):
                first = path.lower().endswith(COMMON_SUFFIXES) and path not in listing.linked
                (self._names if first else self._further).add(path, Location(file), undecoded(path))
                any_image = True
        return None if any_image else list(map(Location, listing.files.values()))

    def _add_archive(self, file: str) -> list[Location] | None:
        """Add an archive's images; returns all its files if it has no images.

        Of members with the same name, the last one counts, as when unpacking.
        """
        archive = self._archives[file] = open_archive(file)
        any_image = False
        for name, place in dict(archive.members()).items():
            location = Location(file, name, place)
            if name.lower().endswith(IMAGE_SUFFIXES):
                names = self._names if name.lower().endswith(COMMON_SUFFIXES) else self._further
                names.add(name, location, archive.others.get(name, ()))
                any_image = True
            else:
                for path in (name, *archive.others.get(name, ())):
                    self._plain.setdefault(path, location)
        return None if any_image else [found for found in self._plain.values() if found.file == file]

    def _told_by_content(self, name: str) -> Location | None:
        """The file or member whose whole path equals a name, if its first bytes are those of an image."""
        for path in spellings(clean_name(name) or ""):
            files = [Location(os.path.join(folder, path)) for folder in self.containers if folder.is_dir()]
            found = [self._plain[path]] if path in self._plain else []
            for location in [*(one for one in files if os.path.isfile(one.file)), *found]:
                if path and self._is_image(location):
                    return self._by_content.setdefault(name, location)
        return None

    def _is_image(self, location: Location) -> bool:
        """Whether the first bytes of a file or member are those of an image."""
        try:
            if location.member is not None:
                return begins_as_image(self.read(location)[:HEAD])
            if not os.path.isfile(location.file):  # reading a pipe would never end
                return False
            with open(location.file, "rb") as file:
                return begins_as_image(file.read(HEAD))
        except (OSError, DataError):
            return False


def image_sources(config: Config) -> ImageSources:
    """The images named under `[data]` or, if none are named, those beside the source.

    Raises
    ------
    DataError
        A named place does not exist, or there is no source.
    """
    if not config.data.images:
        return ImageSources(_beside(config.path(config.data.source)))
    patterns = [config.path(text) for text in config.data.images]
    return (
        ImageSources(patterns, "--images") if config.origins.get("data.images") == "option" else ImageSources(patterns)
    )


def _beside(source: Path) -> list[Path]:
    """Zip and tar files in a source's folder or, without them, its folder of images."""
    if not source.exists() and not is_pattern(source):
        raise DataError(
            f"{source}: the source does not exist, so no images can be found beside it. "
            f"Bring it back, or name it as source under [data] in mmfeat.toml"
        )
    folder = source_folder(source)
    folder = folder.parent if folder.name == "annotations" else folder  # COCO's layout
    archives = sorted(path for suffix in ARCHIVES for path in folder.glob(f"*{suffix}"))
    archives = [path for path in archives if not path.name.startswith("annotations")]
    folders = [folder / name for name in ("images", "data", "train") if (folder / name).is_dir()]
    return archives or folders or [folder]


def image_files_beside(source: Path) -> bool:
    """Whether archives or image files are beside a source or in a folder there; deeper folders are not searched."""
    for place in _beside(source):
        if not place.is_dir() or _has_images(place):
            return True
        if any(_has_images(folder) for folder in place.iterdir() if folder.is_dir()):
            return True
    return False


def unreadable_archives(folder: Path) -> list[Path]:
    """Archives in a folder that cannot be read in place."""
    return sorted(
        p
        for p in (folder.iterdir() if folder.is_dir() else ())
        if p.name.lower().endswith((*NO_RANDOM_ACCESS, ".7z", ".rar"))
    )


def _has_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries)
    except OSError:
        return False


def images_beside(table: Path) -> ImageSources:
    """The images beside a table: in zip and tar files or, without them, in a folder.

    Raises
    ------
    DataError
        The table does not exist.
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
                    f"Unpack it, or make it again as .tar"
                )
            if not path.is_dir() and path.suffix.lower() not in ARCHIVES:
                raise DataError(f"images: {path} is neither a folder nor a zip or tar file")
            containers[path] = None
    return list(containers)


def _settled(file: str) -> Stamp | None:
    """A file's stamp; None if there is no file, or if a change might leave them the same."""
    now = time.time_ns()
    try:
        stamp = stamp_of(os.stat(file))
    except OSError:
        return None
    return stamp if stamp[1] < now - _RACY_NS else None
