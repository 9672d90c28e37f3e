"""Finds images by the names in tables: with their whole path, with more or fewer folders, or without extension."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from mmfeat.common.errors import DataError
from mmfeat.common.spelling import normal_name
from mmfeat.common.text import shown
from mmfeat.data.images.archives import ARCHIVES, Place, clean_name

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PORTABLE_SUFFIXES = (".ppm", ".pgm", ".pbm", ".pnm")
FURTHER_SUFFIXES = (".jfif", ".jpe", ".avif", ".jp2", *PORTABLE_SUFFIXES, ".tga", ".mpo", ".apng", ".heic", ".heif")
IMAGE_SUFFIXES = (*COMMON_SUFFIXES, *FURTHER_SUFFIXES)


class Location(NamedTuple):
    """The location of one image: a file, or a member of an archive and its place there."""

    file: str
    member: str | None = None
    place: Place = ()

    @property
    def path(self) -> str:
        """The whole path; an archive counts as a folder of its name."""
        return self.file if self.member is None else f"{_without(self.file, ARCHIVES)}/{self.member}"

    def __str__(self) -> str:
        return self.file if self.member is None else f"{self.file}:{self.member}"


_Held = Location | list[Location]
_Match = tuple[_Held | None, bool]  # where the image is, and whether only the end of its name fits


class ImageNames:
    """Locations by name.

    An image's path is relative to its folder or archive. A name in a table is compared with the whole path first; then with
    its end (`1.jpg` for `cats/1.jpg`) and with the end of its place on the disk (`photos/1.jpg` for `1.jpg` in `photos`);
    then the end of the name with the whole path (`old/photos/1.jpg` for `1.jpg`). If nothing matches, the same is tried
    without extensions. The best match counts; several equally good matches are an error.

    Among equal matches, exact spellings go before names that only look the same (see
    :func:`mmfeat.common.spelling.normal_name`), are percent-encoded (`a%20b.jpg`), or are possible readings of a name with an
    unknown encoding.
    """

    def __init__(self) -> None:
        self._paths = _Index(lambda path: path)
        self._others: list[tuple[str, Location]] = []
        self._alike: _Index | None = None
        self._stems: tuple[_Index, _Index] | None = None
        self._loose: dict[Location, str] = {}

    def __len__(self) -> int:
        return len(self._paths.whole)

    def add(self, path: str, location: Location, others: Iterable[str] = ()) -> None:
        """Add an image; `others` are other possible readings of its path's bytes."""
        self._paths.add(path, location)
        self._others += [(other, location) for other in others]

    def paths(self) -> list[str]:
        """All images' paths, sorted."""
        return sorted(self._paths.whole)

    def exact(self, name: str) -> Location | None:
        """The image whose whole path equals a name."""
        held = self._paths.whole.get(name)
        return held if isinstance(held, Location) else None

    def find(self, name: str) -> Location | None:
        """The image that a name refers to, or None; thread-safe.

        Raises
        ------
        DataError
            Several images match, or the image matches another name too and neither name includes its folder.
        """
        held = self._paths.whole.get(name)
        if isinstance(held, Location):  # most names
            return held
        path = clean_name(re.sub(r"^([A-Za-z]:)?[/\\]+", "", name))
        if not path:
            return None
        looks = looks_like(path)
        found, loose = self._paths.match(path)
        if found is None or loose:
            if self._alike is None:
                self._alike = self._index(looks_like) if self._any_other_look() else self._paths
            found, loose = _better((found, loose), self._alike.match(looks))
        if found is None:
            if self._stems is None:
                stems = self._index(_stem, others=False)
                self._stems = stems, self._index(lambda p: looks_like(_stem(p))) if self._any_other_look() else stems
            found, loose = _better(self._stems[0].match(path), self._stems[1].match(looks))
        if isinstance(found, list):
            places = " and ".join(map(str, found[:2]))
            remedy = "Leave one of them out" if "/" in path else "Name it with its folder"
            raise DataError(f"image {shown(repr(name))} exists {len(found)} times: {places}. {remedy}")
        if found and loose and (other := self._loose.setdefault(found, looks)) != looks:
            raise DataError(
                f"images {shown(repr(other))} and {shown(repr(path))} both fit {found}, whose folder is in neither name. "
                f"Give the folder above theirs as images"
            )
        return found

    def _any_other_look(self) -> bool:
        """Whether the normal form of any path differs from the path."""
        return bool(self._others) or any(looks_like(path) != path for path in self._paths.whole)

    def _index(self, key: Callable[[str], str], others: bool = True) -> _Index:
        """All images by another key."""
        index = _Index(key)
        for path, held in self._paths.whole.items():
            for location in held if isinstance(held, list) else [held]:
                index.add(path, location)
        for path, location in self._others if others else ():
            index.add(path, location)
        return index


class _Index:
    """Locations by whole paths and by their ends; `key` maps a path to the text that is compared."""

    def __init__(self, key: Callable[[str], str]) -> None:
        self._key = key
        self.whole: dict[str, _Held] = {}
        self._ends: dict[str, _Held] = {}

    def add(self, path: str, location: Location) -> None:
        path = self._key(path)
        _hold(self.whole, path, location)
        for end in _ends(path):
            _hold(self._ends, end, location)

    def match(self, name: str) -> tuple[_Held | None, bool]:
        """The best match, and whether only the end of the name matches."""
        found = self.whole.get(name)
        if found is not None:
            return found, False
        fit: dict[str, _Held] = {}
        if name in self._ends:
            fit[name] = self._ends[name]
        loose = None
        for end in _ends(name):
            held = self.whole.get(end)
            if held is not None:
                loose = loose or held
                for location in held if isinstance(held, list) else [held]:
                    if self._key(location.path.replace("\\", "/")).endswith(f"/{name}"):
                        _hold(fit, name, location)
        return (fit[name], False) if fit else (loose, True)


def looks_like(path: str) -> str:
    """A path with percent encoding decoded, in the normal form that is equal for paths that look the same."""
    if "%" in path:
        with contextlib.suppress(UnicodeDecodeError):
            path = unquote(path, errors="strict")
    return normal_name(path)


def _better(first: _Match, second: _Match) -> _Match:
    """The first of two matches, unless it is loose (only the end of the name fits) and the second is not."""
    replaced = first[0] is None or (first[1] and not second[1])
    return second if second[0] is not None and replaced else first


def _hold(index: dict[str, _Held], key: str, location: Location) -> None:
    """Add a location to an index; several locations of one key become a list, an error only when the key is looked up."""
    held = index.setdefault(key, location)
    if isinstance(held, list):
        if location not in held:
            index[key] = [*held, location]
    elif held != location:  # equal if one named folder lies in another
        index[key] = [held, location]


def _ends(path: str) -> Iterator[str]:
    """The path without its first folder, without its first two, and so on."""
    at = path.find("/")
    while at >= 0:
        path = path[at + 1 :]
        yield path
        at = path.find("/")


def _stem(path: str) -> str:
    return _without(path, IMAGE_SUFFIXES)


def _without(path: str, suffixes: tuple[str, ...]) -> str:
    suffix = next((s for s in suffixes if path.lower().endswith(s)), "")
    return path[: len(path) - len(suffix)]
