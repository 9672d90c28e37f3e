"""A page as one HTML file, and its tables as CSV."""

from __future__ import annotations

import base64
from pathlib import Path

from mmfeat.common.csv_text import csv_text
from mmfeat.common.errors import ConfigError
from mmfeat.report.html.blocks import Page
from mmfeat.report.html.rendering import render
from mmfeat.report.table_layout import Table


def page_path(option: str, path: Path | str) -> Path:
    """The path of a page that was typed for an option.

    Raises
    ------
    ConfigError
        It does not end in .html.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{option} {path}: this is an HTML file. Name it: {file.with_suffix('.html').name}")
    return file


def page_html(page: Page) -> str:
    """The page as one file that needs nothing beside it."""
    return render("page.html", page=page, data_uri=_data_uri)


def page_files(page: Page) -> dict[str, str]:
    """CSV texts of the page's tables, by the end of their names."""
    return {table.name: table_csv(table.table) for table in page.tables}


def table_csv(table: Table) -> str:
    """A table as CSV: all columns in full precision, spreads in columns of their own; lists are joined by `; `."""
    found = table.as_json()
    rows = [[_cell(value) for value in row] for row in found["rows"]]
    return csv_text([column["name"] for column in found["columns"]], rows)


def _cell(value: object) -> object:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def _data_uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
