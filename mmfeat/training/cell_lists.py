"""Lists of cells for a sweep, instead of every combination: typed one by one, or from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError, one_line
from mmfeat.common.text import shown, typed_value
from mmfeat.common.urls import refuse_url

TABLE = "cell"  # of the file: each [[cell]] is a cell
EXAMPLE = "lr=5e-4,batch_size=60,optimizer=adam"


def listed_cells(cells: Sequence[str | Mapping[str, Any]], file: Path | str | None = None) -> list[dict[str, str]]:
    """Cells as key to the text of its value: those that were typed, then those of a file.

    Parameters
    ----------
    cells : sequence of str or of mapping
        `KEY=VALUE,KEY=VALUE`, or a mapping from key to value.
    file : Path, optional
        A TOML file with a table `[[cell]]` for each cell.

    Raises
    ------
    ConfigError
        A cell is empty, or the file cannot be read.
    DataError
        The file is a URL.
    """
    refuse_url(*([] if file is None else [file]))
    found = [_typed(one) if isinstance(one, str) else _of_table(one, "a cell") for one in cells]
    return found + ([] if file is None else _of_file(Path(file)))


def _typed(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    found = {key.strip(): value.strip() for key, _, value in pairs}
    if not all(found) or not all(found.values()) or len(found) < len(pairs):
        raise ConfigError(f"--cell {shown(text)}: write each key once, with its value, as in --cell {EXAMPLE}")
    return found


def _of_file(file: Path) -> list[dict[str, str]]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--cells {file}: cannot be read: {one_line(error)}") from None
    tables = raw.get(TABLE)
    if set(raw) != {TABLE} or not isinstance(tables, list) or not tables:
        raise ConfigError(f"--cells {file}: write a table [[{TABLE}]] for each cell, with lines such as lr = 5e-4")
    return [_of_table(table, f"--cells {file}: [[{TABLE}]] number {i}") for i, table in enumerate(tables, 1)]


def _of_table(table: Any, place: str) -> dict[str, str]:
    if not isinstance(table, Mapping) or not table:
        raise ConfigError(f"{place}: no key. Write lines such as lr = 5e-4")
    for key, value in table.items():
        if not isinstance(value, str | int | float) or value == "":
            raise ConfigError(f"{place}: {shown(key)} has no single value. Write a further cell for each value")
    return {key: typed_value(value) for key, value in table.items()}
