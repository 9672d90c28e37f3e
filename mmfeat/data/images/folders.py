"""Recursive listing of a folder, through links too; folders that cannot be listed are reported, not taken for empty."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Listing:
    """The files below a folder.

    Attributes
    ----------
    files : dict of str to str
        Place on the disk of each path inside the folder (with `/` between its parts). A file that is reached through links
        too has several paths and one place.
    linked : set of str
        The paths that go through a link to a folder.
    unlisted : dict of str to str
        Folders that cannot be listed, with the reason.
    """

    files: dict[str, str] = field(default_factory=dict)
    linked: set[str] = field(default_factory=set)
    unlisted: dict[str, str] = field(default_factory=dict)


def list_folder(folder: Path | str) -> Listing:
    """List a folder recursively.

    Each link to a folder is followed once, after the folders themselves. Links to a folder above them are not followed.
    """
    listing = Listing()
    places: dict[str, str] = {}  # real folder to the path under which it was listed first
    links = list(_walk(str(folder), "", listing, places=places))
    real = set(listing.files)
    for at, inside in links:  # the list grows
        target = os.path.realpath(at)
        above = os.path.realpath(os.path.dirname(at))
        if above == target or above.startswith(os.path.join(target, "")):
            continue
        if target in places:  # already listed: its files get further paths
            _walk_again(places[target], inside, listing)
        else:
            links += _walk(at, inside, listing, places=places)
    listing.linked = listing.files.keys() - real
    return listing


def _walk(top: str, inside: str, listing: Listing, *, places: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Add the files below a folder that was not listed before; yields the links to folders in it, with their paths."""
    stack = [(top, inside)]
    while stack:
        folder, path = stack.pop()
        if (first := places.setdefault(os.path.realpath(folder), folder)) != folder:
            _walk_again(first, path, listing)
            continue
        folders = []
        for name, is_folder, is_link in _entries(folder, listing):
            full, below = os.path.join(folder, name), f"{path}{name}".replace("\\", "/")
            if not is_folder:
                listing.files[below] = full
            elif is_link:
                yield full, f"{below}/"
            else:
                folders.append((full, f"{below}/"))
        stack += reversed(folders)


def _walk_again(top: str, inside: str, listing: Listing) -> None:
    """Add further paths for the files below a folder that was listed before; its links were followed then."""
    stack = [(top, inside)]
    while stack:
        folder, path = stack.pop()
        for name, is_folder, is_link in _entries(folder, listing):
            full, below = os.path.join(folder, name), f"{path}{name}".replace("\\", "/")
            if not is_folder:
                listing.files.setdefault(below, full)
            elif not is_link:
                stack.append((full, f"{below}/"))


def _entries(folder: str, listing: Listing) -> list[tuple[str, bool, bool]]:
    """The sorted entries of a folder: name, whether it is a folder, whether it is a link."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in found)
    except OSError as error:
        listing.unlisted[folder] = error.strerror or str(error)
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # the link points to itself
        return False
