"""Explains images that do not exist: similar names, web addresses, and what was found instead."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmfeat.common.text import counted, quoted, shown
from mmfeat.data.images.archives import ARCHIVES
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.setting_names import SettingError
from mmfeat.data.tables.table_forms import SUFFIXES

if TYPE_CHECKING:
    from mmfeat.data.images.image_sources import ImageSources

_ADDRESS = re.compile(r"(?:https?|ftp|s3|gs|hf|file)://|data:", re.IGNORECASE)
_TEXTS = (".json", ".toml", ".txt", ".md", ".log", ".py")
_NO_IMAGES = (*SUFFIXES, *_TEXTS, *ARCHIVES)
NO_IMAGE = "no such image"
_TRIED = 10  # missing names for which similar names are searched
_SAMPLE = 1000  # names that each is compared with letter by letter, at most
_SHOWN = 3


def look_alikes(missing: Iterable[str], there: Sequence[str]) -> dict[str, str]:
    """Similar existing names for the first missing names.

    Letters and digits are equal except for case, accents and extension; otherwise the spelling is close and the numbers are
    equal.
    """
    plain: dict[str, str] = {}
    for path in there:
        plain.setdefault(_plain(path), path)
    found, sample = {}, {_base(path): path for path in there[:: len(there) // _SAMPLE + 1]}
    for name in list(dict.fromkeys(missing))[:_TRIED]:
        like = plain.get(_plain(name)) if _plain(name) else None
        if like is None:
            close = difflib.get_close_matches(_base(name), sample, 3, 0.8)
            like = next((sample[one] for one in close if _numbers(one) == _numbers(_base(name))), None)
        if like is not None and like != name:
            found[name] = like
    return found


def about_look_alikes(found: dict[str, str]) -> str:
    """`'IMG 1.jpg' is not there; 'IMG_1.jpg' is`, for a few names; empty without any."""
    named = [f"{_distinct(name, like)} is not there; {_distinct(like, name)} is" for name, like in found.items()]
    return "; ".join(named[:_SHOWN]) + (" ..." if len(named) > _SHOWN else "")


def explained(reasons: dict[int, str], names: Sequence[str], there: Sequence[str]) -> dict[int, str]:
    """Reasons why rows have no image, completed by similar names and web addresses."""
    missing = {row: names[row] for row, reason in reasons.items() if reason == NO_IMAGE}
    alike = look_alikes(missing.values(), there) if missing else {}
    for row, name in missing.items():
        if _ADDRESS.match(name):
            reasons[row] = "an address, and images are read from files. Download it first"
        elif name in alike:
            reasons[row] = f"{NO_IMAGE}; {_distinct(alike[name], name)} is there"
    return reasons


def about_addresses(missing: Sequence[str]) -> str:
    """A sentence about rows whose image is a URL or is contained in the cell; empty without such rows."""
    named = [name for name in missing if _ADDRESS.match(name)]
    if not named:
        return ""
    web = [name for name in named if name[:5].lower() != "data:"]
    n, parts = len(named) - len(web), []
    if web:
        parts.append(
            f"{counted(len(web), 'row')} {'names a URL' if len(web) == 1 else 'name URLs'}, like {quoted(web[0])}"
        )
    if n:
        parts.append(
            f"{counted(n, 'row')} {'holds its image' if n == 1 else 'hold their images'} as text (a data: URI)"
        )
    return f"{' and '.join(parts)}: images are read from files. {'Download' if web else 'Save'} them first"


def nothing_found(names: Sequence[str], sources: ImageSources) -> SettingError:
    """The error if no named image exists: what was searched, where, and what was found there."""
    wanted, there = [name for name in names if name], sources.names()
    about = about_addresses(wanted) or about_look_alikes(look_alikes(wanted, there))
    where = ", ".join(map(str, sources.containers[:3])) + (" ..." if len(sources.containers) > 3 else "")
    found = (
        f"{counted(len(there), 'image')} there, like {shown(repr(there[0]))}"
        if there
        else f"there is no image at all ({', '.join(IMAGE_SUFFIXES)})"
    )
    return SettingError(
        f"images: none of {counted(len(wanted), 'name')} like {shown(repr(wanted[0]))} found in {where}: {found}. "
        f"{about and f'{about}. '}Name the images' place or their column.",
        [[("images", "PATH"), ("image", "COLUMN")]],
    )


def other_files(sources: ImageSources) -> list[str]:
    """Names of some files in the folders of images (not deeper) that are not images, tables or settings by suffix."""
    found: list[str] = []
    for folder in sources.containers:
        try:
            with os.scandir(folder) as entries:
                found += [e.name for e in entries if e.is_file() and not e.name.lower().endswith(_NO_IMAGES)]
        except OSError:
            continue
    return sorted(name for name in found if not name.startswith(".") and not name.lower().endswith(IMAGE_SUFFIXES))


def _distinct(name: str, other: str) -> str:
    """A name in quotes, escaped if it would look like the other."""
    same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)
    return ascii(name) if same else quoted(name)


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _plain(path: str) -> str:
    """Letters and digits of a file's name without its extension; numbers without leading zeros."""
    stem = re.sub(r"\.\w{1,5}$", "", _base(path))
    text = "".join(c if c.isalnum() else " " for c in unicodedata.normalize("NFKD", stem).casefold() if c.isprintable())
    text = re.sub(r"(?<!\d)0+(?=\d)", "", text)
    return re.sub(r"(?<!\d) +| +(?!\d)", "", text)


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]{1,18}", name)]
