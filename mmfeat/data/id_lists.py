"""Readers of ids that accompany embeddings in a separate file: CSV, plain text, npy or JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.spelling import Spellings
from mmfeat.common.text import shown
from mmfeat.data.tables.delimited import delimiter_of, usual_delimiter
from mmfeat.data.tables.text_files import read_text, refuse_damage

IDS = ("id", "ids")  # names of a column, data set or tensor of ids


def read_ids(path: Path, n_rows: int) -> list[str]:
    """Read ids from CSV or TSV (a column `id`, or a single column), .txt (one per line), .npy or .json (a list).

    Parameters
    ----------
    n_rows : int
        Expected number of ids; decides whether the first line of a single column is a header.

    Raises
    ------
    DataError
        The file cannot be read, or its column of ids is not known.
    """
    readers = {
        ".csv": _csv_ids,
        ".tsv": _csv_ids,
        ".tab": _csv_ids,
        ".txt": _text_ids,
        ".npy": _npy_ids,
        ".json": _json_ids,
    }
    read = readers.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if read is None:
        raise DataError(f"{path}: its suffix is not a format of ids. Use one of: {', '.join(readers)}")
    try:
        values = read(path, n_rows)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except Exception as error:  # the csv, json and npy readers raise errors of their own
        raise DataError(f"{path}: cannot be read as {path.suffix[1:].lower()}: {one_line(error)}") from None
    return as_ids(values, str(path))


def _csv_ids(path: Path, n_rows: int) -> list[str]:
    text, usual = _text(path), usual_delimiter(path)
    rows = _rows(text, delimiter_of(text, usual))
    if not rows:
        raise DataError(f"{path}: it is empty")
    title = next(filter(None, map(Spellings(rows[0], f"{path}: column ").find, IDS)), None)
    if title is None:  # without a header, an unusual delimiter may be part of an id
        rows = _rows(text, usual)
    if title is None and len(rows[0]) > 1:
        raise DataError(
            f"{path}: no column 'id' among {shown(', '.join(rows[0]), 120)!r}. Rename the column of ids to it"
        )
    at = rows[0].index(title) if title else 0
    body = rows[1:] if title or len(rows) == n_rows + 1 else rows
    short = next((number for number, row in enumerate(body, 1) if len(row) <= at), None)
    if short is not None:
        raise DataError(f"{path}: row {short:,} has no id")
    return [row[at] for row in body]


def _rows(text: str, delimiter: str) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter) if row]


def _text_ids(path: Path, n_rows: int) -> list[str]:
    lines = _text(path).removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def _text(path: Path) -> str:
    text = read_text(path).text
    for number, line in enumerate(text.split("\n"), 1):
        refuse_damage(path, number, line)
    return text


def _npy_ids(path: Path, n_rows: int) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _json_ids(path: Path, n_rows: int) -> list[Any]:
    values = json.loads(_text(path))
    if not isinstance(values, list):
        raise DataError(f"{path}: not a list of ids")
    return values


def as_ids(values: Any, place: str) -> list[str]:
    """Ids as text, from texts or integers. Any other value, or an empty one, is an error that names its row."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise DataError(f"{place} has shape {shape_text(values.shape)}: ids are one list")
        values = values.tolist()
    ids = []
    for number, value in enumerate(values, 1):
        value = value.decode("utf-8") if isinstance(value, bytes) else value
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            found = "blank" if value in ("", None) else f"{shown(repr(value))}, neither text nor a whole number"
            raise DataError(f"{place}: the id of row {number:,} is {found}")
        ids.append(str(value))
    return ids


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for a message: `(24,000, 768)`."""
    return "(" + ", ".join(f"{n:,}" for n in shape) + ("," if len(shape) == 1 else "") + ")"
