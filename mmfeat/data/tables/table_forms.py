"""The forms of table files (Parquet, Excel, JSON Lines, delimited text): recognised by content, each with its reader.

A further form is one registration: a function that reads its files, under :func:`register_form`.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.tables.delimited import delimiter_of, read_delimited
from mmfeat.data.tables.table import Table, TextTable
from mmfeat.data.tables.text_files import decoded, read_unpacked

PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", *PARQUET, *JSON_LINES, ".xlsx")
_HEAD = 2**16  # bytes by which a form is recognised
_SAVE = "Save it as CSV (UTF-8) or Parquet"
_ARROW = "an Arrow file. Save it as Parquet: datasets.Dataset.from_file(FILE).to_parquet('table.parquet')"
_REFUSED = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself. Run: git lfs pull"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"an Excel workbook of the old kind, or one with a password. {_SAVE}"),
    (b"ARROW1", _ARROW),
    (b"\xff\xff\xff\xff", _ARROW),
    (b"\x89HDF", f"an HDF5 file. {_SAVE}; embeddings are read by: mmfeat store import"),
    (b"SQLite format 3", f"an SQLite database. {_SAVE}"),
    (b"BZh", "packed by bzip2. Unpack it, or pack it by gzip"),
    (b"\xfd7zXZ\x00", "packed by xz. Unpack it, or pack it by gzip"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd. Unpack it, or pack it by gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it"),
    (b"Rar!", "a RAR archive. Unpack it"),
    (b"%PDF-", f"a PDF. {_SAVE}"),
)


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """One form of table files.

    Attributes
    ----------
    read : callable
        From a file, and whether records that are not valid CSV may be recovered, to its table.
    suffixes : tuple of str
        Suffixes of its files, in lower case.
    signature : bytes
        First bytes of its files; empty if they do not identify the form.
    """

    name: str
    read: Callable[[Path, bool], Table]
    suffixes: tuple[str, ...] = ()
    signature: bytes = b""


FORMS: dict[str, TableForm] = {}
_Reader = Callable[[Path, bool], Table]


def register_form(name: str, *, suffixes: tuple[str, ...], signature: bytes = b"") -> Callable[[_Reader], _Reader]:
    """Register a function as the reader of a form, see :class:`TableForm`; use it as a decorator."""

    def add(read: _Reader) -> _Reader:
        FORMS[name] = TableForm(name=name, read=read, suffixes=suffixes, signature=signature)
        return read

    return add


@register_form("parquet", suffixes=PARQUET, signature=b"PAR1")
def _read_parquet(file: Path, recover: bool) -> Table:
    from mmfeat.data.tables.parquet import ParquetTable

    return ParquetTable(file)


@register_form("xlsx", suffixes=(".xlsx",))
def _read_xlsx(file: Path, recover: bool) -> Table:
    from mmfeat.data.tables.workbooks import read_workbook

    header, records, hints = read_workbook(file)
    table = TextTable(file, header, records)
    table.hints = hints
    return table


@register_form("json", suffixes=JSON_LINES)
def _read_json(file: Path, recover: bool) -> Table:
    from mmfeat.data.tables.json_lines import read_json_lines

    return read_json_lines(file)


@register_form("text", suffixes=(".csv", ".tsv", ".tab", ".txt"))
def _read_text(file: Path, recover: bool) -> Table:
    found = read_delimited(file, recover)
    table = TextTable(file, found.header, found.records)
    table.hints = found.file.about(file)
    return table


_BUILT_IN = tuple(FORMS)


def read_table(file: Path, recover: bool = False) -> Table:
    """Read a table of any form. The form is recognised by content; the suffix only decides between readings of a text.

    Parameters
    ----------
    recover : bool
        Whether records that are not valid CSV may be recovered; otherwise they are an error.

    Raises
    ------
    DataError
        The file cannot be read, is empty or malformed, or is not a table.
    """
    return FORMS[form_of(file)].read(file, recover)


def table_suffix(name: str) -> str:
    """The suffix of a table's name in lower case; `.csv` for `t.csv.gz`. Empty if it is not the suffix of a table."""
    name = name.lower().removesuffix(".gz")
    return next((suffix for form in FORMS.values() for suffix in form.suffixes if name.endswith(suffix)), "")


def table_stem(name: str) -> str:
    """The beginning of a table's name, without suffix and wildcards: `train` of `train-*.csv.gz`."""
    stem = Path(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)).stem
    plain = re.sub(r"[*?\[\]]+", "", stem)
    return stem if plain == stem else plain.strip("-._ ") or "table"


def is_table(path: Path) -> bool:
    """Whether a path is a table: by its suffix or, without a known suffix, by its content."""
    if table_suffix(path.name) or path.name.lower().endswith(IMAGE_SUFFIXES):
        return bool(table_suffix(path.name))
    try:
        return path.is_file() and form_of(path) != ""
    except (DataError, OSError):
        return False


def form_of(file: Path) -> str:
    """The name of a file's form: `parquet`, `xlsx`, `json` (JSON Lines), `text` (delimited cells) or a registered one.

    Raises
    ------
    DataError
        The file cannot be read or is not a table; the message tells how to save it.
    """
    head = read_unpacked(file, _HEAD)
    named = Path(table_suffix(file.name)).name
    for form in FORMS.values():
        if form.signature and head.startswith(form.signature):
            return _refuse_packed(file, head, form.name)
    if head.startswith(b"PK\x03\x04"):
        return _refuse_packed(file, head, _form_of_zip(file))
    for mark, what in _REFUSED:
        if head.startswith(mark):
            raise DataError(f"{file}: {what}")
    if named in PARQUET and (not head or _is_binary(head)):
        return "parquet"  # its reader's error explains the damage
    own = next((form.name for form in FORMS.values() if named and named in form.suffixes), "text")
    if own not in _BUILT_IN:
        return own
    if _is_binary(head):
        raise DataError(
            f"{file}: not a table: its bytes are not text. A table is a file of one of {', '.join(SUFFIXES)}"
        )
    return _form_of_text(file, head, named)


def _refuse_packed(file: Path, head: bytes, form: str) -> str:
    with file.open("rb") as opened:
        if opened.read(4) != head[:4]:
            raise DataError(f"{file}: packed by gzip, which is read for texts only. Unpack it: gunzip FILE")
    return form


def _form_of_zip(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            kind = archive.open("mimetype").read(80) if "mimetype" in names else b""
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        raise DataError(f"{file}: a damaged zip archive or workbook. {_SAVE}") from None
    if "xl/workbook.xml" in names:
        return "xlsx"
    if b"opendocument.spreadsheet" in kind:
        raise DataError(f"{file}: an OpenDocument spreadsheet. {_SAVE}")
    if "xl/workbook.bin" in names:
        raise DataError(f"{file}: a binary Excel workbook. {_SAVE}")
    raise DataError(f"{file}: a zip archive. Unpack it, and name the table in it")


def _is_binary(head: bytes) -> bool:
    """Whether bytes contain control characters that text does not have (UTF-16 and UTF-32 contain zeros)."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:4] == b"\x00\x00\xfe\xff":
        return False
    if not any(head[1:8:2]) or not any(head[:8:2]):  # UTF-16 without a byte-order mark, or empty
        return False
    return b"\x00" in head[:1024] and any(byte < 9 for byte in head[:1024] if byte)


def _form_of_text(file: Path, head: bytes, named: str) -> str:
    try:
        text = decoded(file, head[: len(head) // 4 * 4] if len(head) == _HEAD else head).text.lstrip()
    except DataError:  # cut within a character; the whole file is decoded later
        text = head.decode("latin-1").lstrip("\x00 \r\n\t")
    if text[:15].lower().startswith(("<!doctype html", "<html", "<?xml")):
        raise DataError(f"{file}: a web page or XML, not a table. {_SAVE}")
    first = text.partition("\n")[0]
    if named in JSON_LINES:
        cells = not text.startswith(("{", "[")) and delimiter_of(first, "") != ""
        return "text" if cells else "json"
    return "json" if text.startswith("{") and _is_object(first) else "text"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
