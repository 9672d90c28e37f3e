"""Tables and lines of Markdown from any text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmfeat.common.text import shown


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str] | str]) -> list[str]:
    """The lines of a table; a text instead of a row is a heading of the rows below it."""
    full = [[row, *[""] * (len(head) - 1)] if isinstance(row, str) else row for row in [head, *rows]]
    cells = [[escaped(cell) for cell in row] for row in full]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]]]


def escaped(text: str, limit: int = 60) -> str:
    """Any text as one cell or line, shortened as by `shown`: characters that Markdown would interpret are escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", shown(text, limit))
