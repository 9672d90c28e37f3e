"""Text for messages: escaped untrusted text, counts with nouns, nearest names, TOML strings."""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from mmfeat.common.errors import ConfigError


def shown(text: object, limit: int = 60) -> str:
    """Format untrusted text on one line: control characters are escaped, the text is cut to `limit` characters.

    A quoted text that is cut keeps its closing quote.
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    if len(escaped) <= limit:
        return escaped
    end = "…" + escaped[-1] if escaped[0] in "'\"" and escaped[0] == escaped[-1] else "…"
    return escaped[: limit - len(end)] + end


def shown_value(value: object) -> str:
    """Format a setting's value for a message: one line of at most 60 characters, control characters escaped."""
    return shown(repr(str(value)) if isinstance(value, str) else value)


def quoted(text: str) -> str:
    """Format untrusted text in quotes, on one line."""
    return shown(repr(text))


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint for an unknown name, such as ` Nearest: 'dog'.`; empty if no name is similar."""
    near = [one for one in names if one.casefold() == name.casefold()] or difflib.get_close_matches(name, names, 1)
    return f" Nearest: {quoted(near[0])}." if near else ""


def counted(n: int, what: str, plural: str = "") -> str:
    """A count with its noun: `1 row`, `2,000 rows`. Pass `plural` if it is not the singular plus s."""
    return f"{n:,} {what if n == 1 else plural or what + 's'}"


def megabytes(mb: float) -> str:
    """Megabytes with a digit that is not zero: `4.6 MB`, `0.042 MB`."""
    return f"{mb:,.1f} MB" if mb >= 0.1 else f"{mb:.2g} MB"


def utc_time(nanoseconds: int) -> str:
    """A time since 1970 as text that sorts by time: `2026-01-31T12:00:00.000000000Z`."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def typed_value(value: Any) -> str:
    """A truth value, number or text as it is typed, without quotes: `true`, `0.0005`, `adam`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def toml_value(value: float | str | Sequence[str]) -> str:
    """Format a string, a list of strings, a number, or true or false as a TOML value; TOML parsers return the same value.

    Raises
    ------
    ConfigError
        The text has bytes that are not UTF-8 (as a file name may), which TOML cannot contain.
    """
    if isinstance(value, int | float):  # also true and false
        return typed_value(value)
    if not isinstance(value, str):
        return f"[{', '.join(map(toml_value, value))}]"
    if re.search("[\ud800-\udfff]", value):
        raise ConfigError(f"{shown(value)}: not UTF-8, so that mmfeat.toml cannot name it. Rename it")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # all other JSON escapes are valid TOML
