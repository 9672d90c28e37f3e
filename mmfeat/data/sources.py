"""Where images are: folders and zip files, read in place."""

from __future__ import annotations

import glob
import os
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmfeat.config import Config
from mmfeat.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Location:
    """One image: a file, or a member of an archive."""

    file: str
    member: str | None = None


class ImageSources:
    """Images by name, wherever they lie.

    A name matches by its path inside a folder or an archive, or by its last component where that is unique.

    Parameters
    ----------
    patterns : iterable of Path or str
        Folders and zip files; `*` and `?` are expanded.

    Raises
    ------
    DataError
        A pattern matches nothing, an archive is damaged, or one of its members would leave its folder.
    """

    def __init__(self, patterns: Iterable[Path | str]) -> None:
        self.containers = _expand(patterns)
        self.n_images = 0
        self._by_path: dict[str, Location] = {}
        self._by_name: dict[str, list[Location]] = {}
        self._members: dict[Location, tuple[int, ...]] = {}
        self._handles = threading.local()
        for container in self.containers:
            self._list_folder(container) if container.is_dir() else self._list_archive(container)

    def locate(self, name: str) -> Location | None:
        """Where an image is; None where it is nowhere, or its name would leave the folders.

        Raises
        ------
        DataError
            Several images have this name.
        """
        path = _clean(name)
        if path is None:
            return None
        found = self._by_path.get(path)
        if found is None and "/" not in path:
            candidates = self._by_name.get(path, [])
            if len(candidates) > 1:
                places = " and ".join(f"{c.file}{':' + c.member if c.member else ''}" for c in candidates[:2])
                raise DataError(f"image {name!r} is there {len(candidates)} times: {places}. Name it with its folder")
            found = candidates[0] if candidates else None
        return found

    def read(self, location: Location) -> bytes:
        """An image's bytes; safe in threads.

        Raises
        ------
        OSError, DataError
            They cannot be read.
        """
        if location.member is None:
            return Path(location.file).read_bytes()
        try:
            return self._archive(location.file).read(location.member)
        except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
            raise DataError(f"{location.file}: member {location.member!r} cannot be read: {error}") from None

    def stamps(self, locations: Iterable[Location]) -> list[tuple[int, ...] | None]:
        """Size, time and inode of each image's file (and place and checksum within its archive); None if it is gone."""
        archives: dict[str, tuple[int, ...] | None] = {}
        stamps = []
        for location in locations:
            if location.member is None:
                stamps.append(_stamp(location.file))
                continue
            if location.file not in archives:
                archives[location.file] = _stamp(location.file)
            outer = archives[location.file]
            stamps.append(None if outer is None else (*outer, *self._members[location]))
        return stamps

    def _archive(self, file: str) -> zipfile.ZipFile:
        """An open archive of this thread."""
        handles = self._handles.__dict__
        if file not in handles:
            handles[file] = zipfile.ZipFile(file)
        return handles[file]

    def _list_folder(self, folder: Path) -> None:
        for root, _, files in os.walk(folder):
            for name in files:
                full = os.path.join(root, name)
                if name.lower().endswith(IMAGE_SUFFIXES):
                    self._add(Path(full).relative_to(folder).as_posix(), Location(full))

    def _list_archive(self, file: Path) -> None:
        try:
            members = self._archive(str(file)).infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{file}: not a zip file that can be read: {error}") from None
        for info in members:
            path = _clean(info.filename)
            if path is None:
                raise DataError(
                    f"{file}: member {info.filename[:80]!r} leaves the archive's folder. Make the archive anew without it"
                )
            if not info.is_dir() and path.lower().endswith(IMAGE_SUFFIXES):
                location = Location(str(file), info.filename)
                self._members[location] = (info.header_offset, info.CRC, info.file_size)
                self._add(path, location)

    def _add(self, path: str, location: Location) -> None:
        self.n_images += 1
        if path in self._by_path:
            self._by_name.setdefault(path.rpartition("/")[2], []).append(location)
            if "/" not in path:  # two archives hold the same path: only an error for who asks for it
                del self._by_path[path]
            return
        self._by_path[path] = location
        self._by_name.setdefault(path.rpartition("/")[2], []).append(location)


def image_sources(config: Config) -> ImageSources:
    """The images that `[data]` names or, where it names none, those beside the source."""
    return ImageSources([config.path(text) for text in config.data.images] or _beside(config.path(config.data.source)))


def _beside(source: Path) -> list[Path]:
    """Zip files, or else a folder of images, in a source's folder."""
    folder = source if source.is_dir() else source.parent
    archives = sorted(folder.glob("*.zip"))
    folders = [folder / name for name in ("images", "data", "train") if (folder / name).is_dir()]
    return archives or folders or [folder]


def _expand(patterns: Iterable[Path | str]) -> list[Path]:
    containers = []
    for pattern in patterns:
        text = str(pattern)
        found = [text] if os.path.exists(text) else sorted(glob.glob(text))
        if not found:
            raise DataError(f"images: nothing at {text}. Give a folder or zip files with --images, or in mmfeat.toml")
        for path in map(Path, found):
            if not path.is_dir() and path.suffix.lower() != ".zip":
                raise DataError(f"images: {path} is neither a folder nor a zip file")
            containers.append(path)
    return containers


def _clean(name: str) -> str | None:
    """A relative path without `.` parts, or None where it is absolute, leaves its folder or is no plain name."""
    if not name or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return None
    return path.as_posix()


def _stamp(file: str) -> tuple[int, ...] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
