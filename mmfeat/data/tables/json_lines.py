"""JSON Lines files as tables, and JSON text that is safe to store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError, one_line
from mmfeat.data.tables.table import ObjectTable, kind_of
from mmfeat.data.tables.text_files import read_text, refuse_damage


def read_json_lines(file: Path) -> ObjectTable:
    """Read a file with one JSON object per line.

    Raises
    ------
    DataError
        The file cannot be read, or a line is not a JSON object.
    """
    rows, lines = [], []
    found = read_text(file)
    for number, line in enumerate(found.text.split("\n"), 1):
        if not line.strip():
            continue
        refuse_damage(file, number, line)
        try:
            row = _json_of_text(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}:{number}: not JSON: {one_line(error)}. Each line holds one object") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}:{number}: {kind_of(row)}, and each line holds one object: {{...}}")
        rows.append(row)
        lines.append(number)
    table = ObjectTable(file, rows, lines)
    table.hints = found.about(file)
    return table


def json_of(data: bytes) -> Any:
    """Parse JSON; a lone surrogate becomes a question mark, since no other file can store it.

    Raises
    ------
    ValueError, RecursionError
        The bytes are not JSON in UTF-8.
    """
    return _json_of_text(data.decode("utf-8-sig"))


def _json_of_text(text: str) -> Any:
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value
