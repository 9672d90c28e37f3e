"""Words for people: untrusted text made harmless, numbers of things, strings of mmfeat.toml."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence

from mmfeat.common.errors import ConfigError


def shown(text: object, limit: int = 60) -> str:
    """Untrusted text on one line: control characters escaped, shortened to `limit` characters."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def shown_value(value: object) -> str:
    """A setting's value for a message: on one line, at most 60 characters, control characters escaped."""
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def quoted(text: str) -> str:
    """Untrusted text between quotes."""
    return shown(repr(text))


def nearest(name: str, names: Sequence[str]) -> str:
    """` Nearest: 'dog'.`, the name that is spelt most like one that is unknown; empty where none is like it."""
    near = [one for one in names if one.casefold() == name.casefold()] or difflib.get_close_matches(name, names, 1)
    return f" Nearest: {quoted(near[0])}." if near else ""


def counted(n: int, what: str, plural: str = "") -> str:
    """`1 row`, `2,000 rows`; `plural` where it is not made with an s."""
    return f"{n:,} {what if n == 1 else plural or what + 's'}"


def toml_value(value: str | Sequence[str]) -> str:
    """A string, or a list of strings, as TOML writes it; any text reads back as it was.

    Raises
    ------
    ConfigError
        The text has bytes that are not UTF-8 (a file's name may), which TOML cannot hold.
    """
    if not isinstance(value, str):
        return f"[{', '.join(map(toml_value, value))}]"
    if re.search("[\ud800-\udfff]", value):
        raise ConfigError(f"{shown(value)}: not UTF-8, so that mmfeat.toml cannot name it. Rename it")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but for this
