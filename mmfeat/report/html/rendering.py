"""Pages from the templates, with autoescape on: text of captions, labels and file names is never markup."""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import TYPE_CHECKING, Any

from mmfeat import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST = 600  # characters of a text that a page shows
_JOINERS = "\u200c\u200d"  # invisible and harmless: they belong to words and to emoji


def render(template: str, *, script: bool = True, **values: Any) -> str:
    """A page as HTML.

    Parameters
    ----------
    template : str
        Name of a file in `report/templates`, such as `run.html`.
    script : bool
        Whether the page gets the script that sorts and filters.
    **values : Any
        What the template shows. All texts are escaped.
    """
    source = _source("page.js") if script else ""
    return (
        _environment()
        .get_template(template)
        .render(
            style=_markup(_source("style.css")),
            script=_markup(source),
            script_source=_markup(f"'sha256-{_digest(source)}'" if script else "'none'"),
            version=__version__,
            **values,
        )
    )


def style() -> str:
    """The stylesheet of all pages, for a server that sends it itself."""
    return _source("style.css")


@functools.cache
def _source(name: str) -> str:
    from importlib.resources import files

    return files("mmfeat.report").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _markup(text: str) -> Any:
    """Text of this package as markup: the only text that is not escaped."""
    from markupsafe import Markup

    return Markup(text)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mmfeat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=plain, count=count, figure=figure, percent=percent, sort_value=sort_value)
    return environment


def plain(text: object, limit: int = LONGEST) -> str:
    """Untrusted text in one line of at most `limit` characters: escape codes and overrides of the direction are spelled out."""
    line = " ".join(str(text).split())
    escaped = "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in line)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def count(number: float) -> str:
    """A number of things with thousands separated: `24,000`."""
    return f"{number:,.0f}"


def figure(number: float | None, digits: int = 3) -> str:
    """A metric with its digits; a dash without a value."""
    return "–" if number is None or number != number else f"{number:.{digits}f}"


def percent(number: float | None) -> str:
    """A share as per cent: `12 %`; a dash without a value."""
    return "–" if number is None or number != number else f"{100 * number:.0f} %"


def sort_value(cell: Any) -> Any:
    """The attribute that the script sorts a cell by: its value in full precision, where it is a number."""
    value = getattr(cell, "value", None)
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return _markup(' data-value=""') if cell in ("", "-", "–") else ""
    return _markup(f' data-value="{value:.6g}"')
