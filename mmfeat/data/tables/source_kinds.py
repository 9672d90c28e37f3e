"""The registry of source kinds: what `mmfeat init` reads, from a path to its tables.

A further kind is one file: a function from a path and the user's columns to an :class:`OpenedSource`, or to None for paths of
other kinds, under :func:`register_source_kind`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmfeat.data.tables.table import Table

Columns = dict[str, str | list[str]]


@dataclass(frozen=True, kw_only=True)
class OpenedSource:
    """The tables of a source.

    Attributes
    ----------
    kind : str
        Description of the source, for people.
    columns : dict of str to str or list of str
        Named columns by role (`id`, `image`, `caption`, `labels`, `group`).
    labels : str, list of str or None
        The `labels` setting, if it selects something other than columns of a table (COCO: categories).
    classes : tuple of str
        The classes, if the source lists them; otherwise empty.
    """

    kind: str
    tables: list[Table]
    columns: Columns
    labels: str | list[str] | None = None
    classes: tuple[str, ...] = ()


Opener = Callable[[Path, Columns], OpenedSource | None]
SOURCE_KINDS: list[Opener] = []


def register_source_kind(opener: Opener) -> Opener:
    """Register a function that opens sources of one kind; use it as a decorator. Registered kinds precede built-in ones."""
    SOURCE_KINDS.append(opener)
    return opener
