"""Names that look the same are the same name: a normal form to compare names by, and lookup by it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

from mmfeat.common.errors import DataError

_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")  # joiners (U+200C, U+200D) change what is shown: kept
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def normal_name(name: str) -> str:
    """The form in which a name is compared: NFC, without invisible characters, with plain spaces, without spaces at the ends.

    Invisible are the byte order mark, the zero-width space, the word joiner, the soft hyphen and the marks of direction.
    """
    if not name.isascii():
        name = _SPACES.sub(" ", _INVISIBLE.sub("", unicodedata.normalize("NFC", name)))
    return name.strip()


def spellings(name: str) -> list[str]:
    """A name as given, and as other programs may have written it: composed (NFC) and decomposed (NFD)."""
    if name.isascii():
        return [name]
    normal = normal_name(name)
    return list(dict.fromkeys((name, normal, unicodedata.normalize("NFD", normal))))


class Spellings:
    """Names found as they are spelled or, where none is spelled so, by their normal form.

    Parameters
    ----------
    place : str
        What an error begins with: a file's name, and what the names are.
    """

    def __init__(self, names: Collection[str], place: str = "") -> None:
        self._place = place
        self._names = names if isinstance(names, dict | set | frozenset) else set(names)
        self._alike: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """The name among these that a name means; None where there is none.

        Raises
        ------
        DataError
            None is spelled like it, and several look like it.
        """
        if name in self._names:
            return name
        if self._alike is None:
            self._alike = {}
            for one in self._names:
                self._alike.setdefault(normal_name(one), []).append(one)
        found = self._alike.get(normal_name(name), [])
        if len(found) > 1:
            raise DataError(
                f"{self._place}{name!a} may be {' or '.join(sorted(map(ascii, found))[:3])}, which look the same"
            )
        return found[0] if found else None


def look_the_same(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of different names with the same normal form."""
    first: dict[str, str] = {}
    pairs = ((first.setdefault(normal_name(name), name), name) for name in dict.fromkeys(names))
    return [(a, b) for a, b in pairs if a != b]


def spelled_as(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Names in the spelling of the wanted names that look the same.

    Raises
    ------
    DataError
        Several look like the same wanted name, or the other way round, and none is spelled like it.
    """
    there = set(names)
    lacking = Spellings({name for name in wanted if name not in there})
    exact = set(wanted)
    found = [name if name in exact else lacking.find(name) or name for name in names]
    first: dict[str, str] = {}
    for name, to in zip(names, found, strict=True):
        if name != to and first.setdefault(to, name) != name:
            raise DataError(f"{to!a} may be {first[to]!a} or {name!a}, which look the same")
    return found
