"""Unicode-insensitive names: names that look the same are equal. Normal form, and lookup by it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

from mmfeat.common.errors import DataError

_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")  # joiners (U+200C, U+200D) change what is shown: kept
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def normal_name(name: str) -> str:
    """The normal form of a name, for comparison: NFC, without invisible characters, with plain spaces, stripped.

    Invisible characters are the byte-order mark, zero-width space, word joiner, soft hyphen and direction marks.
    """
    if not name.isascii():
        name = _SPACES.sub(" ", _INVISIBLE.sub("", unicodedata.normalize("NFC", name)))
    return name.strip()


def spellings(name: str) -> list[str]:
    """A name as given, and as other programs may write it: normal form (NFC) and decomposed (NFD)."""
    if name.isascii():
        return [name]
    normal = normal_name(name)
    return list(dict.fromkeys((name, normal, unicodedata.normalize("NFD", normal))))


class Spellings:
    """Lookup of names: by exact spelling first, then by normal form.

    Parameters
    ----------
    names : collection of str
        The names to search.
    place : str
        The beginning of an error message: a file's name and the noun of the names, such as `t.csv: column `.
    """

    def __init__(self, names: Collection[str], place: str = "") -> None:
        self._place = place
        self._names = names if isinstance(names, dict | set | frozenset) else set(names)
        self._alike: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """The stored name that equals `name`; None if there is none.

        Raises
        ------
        DataError
            No stored name has the same spelling, and several have the same normal form.
        """
        if name in self._names:
            return name
        if self._alike is None:
            self._alike = {}
            for one in self._names:
                self._alike.setdefault(normal_name(one), []).append(one)
        alike = self._alike.get(normal_name(name), [])
        if len(alike) > 1:
            raise DataError(
                f"{self._place}{name!a} may be {' or '.join(sorted(map(ascii, alike))[:3])}, which look the same"
            )
        return alike[0] if alike else None


def look_the_same(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of different names with the same normal form."""
    first: dict[str, str] = {}
    pairs = ((first.setdefault(normal_name(name), name), name) for name in dict.fromkeys(names))
    return [(a, b) for a, b in pairs if a != b]


def spelled_as(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Respell names like the wanted names with the same normal form; other names stay unchanged.

    Raises
    ------
    DataError
        Without an exact match, several names fit one wanted name or several wanted names fit one name.
    """
    given = set(names)
    unmatched = Spellings({name for name in wanted if name not in given})
    exact = set(wanted)
    respelled = [name if name in exact else unmatched.find(name) or name for name in names]
    first: dict[str, str] = {}
    for name, to in zip(names, respelled, strict=True):
        if name != to and first.setdefault(to, name) != name:
            raise DataError(f"{to!a} may be {first[to]!a} or {name!a}, which look the same")
    return respelled
