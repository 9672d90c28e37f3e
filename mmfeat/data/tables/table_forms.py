"""What kind of table a file is, by its first bytes; and what to do about files that are none."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.tables.delimited import delimiter_of
from mmfeat.data.tables.text_files import decoded, read_unpacked

PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", *PARQUET, *JSON_LINES, ".xlsx")
_HEAD = 2**16  # bytes by which a file is told
_SAVE = "Save it as CSV (UTF-8) or Parquet"
_REFUSED = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself. Run: git lfs pull"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"an Excel workbook of the old kind, or one with a password. {_SAVE}"),
    (b"ARROW1", "an Arrow file. Save it as Parquet: datasets.Dataset.from_file(FILE).to_parquet('table.parquet')"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow file. Save it as Parquet: datasets.Dataset.from_file(FILE).to_parquet('table.parquet')",
    ),
    (b"\x89HDF", f"an HDF5 file. {_SAVE}; embeddings are read by: mmfeat store import"),
    (b"SQLite format 3", f"an SQLite database. {_SAVE}"),
    (b"BZh", "packed by bzip2. Unpack it, or pack it by gzip"),
    (b"\xfd7zXZ\x00", "packed by xz. Unpack it, or pack it by gzip"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd. Unpack it, or pack it by gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it"),
    (b"Rar!", "a RAR archive. Unpack it"),
    (b"%PDF-", f"a PDF. {_SAVE}"),
)


def table_suffix(name: str) -> str:
    """The suffix of a table's name, in small letters; `.csv` of `t.csv.gz`. Empty where it is not one of a table."""
    name = name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def table_stem(name: str) -> str:
    """What a table's name begins with, without suffix and signs of a pattern: `train` of `train-*.csv.gz`."""
    stem = Path(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)).stem
    plain = re.sub(r"[*?\[\]]+", "", stem)
    return stem if plain == stem else plain.strip("-._ ") or "table"


def is_table(path: Path) -> bool:
    """Whether something typed is a table: by its suffix, or else by its content."""
    if table_suffix(path.name) or path.name.lower().endswith(IMAGE_SUFFIXES):
        return bool(table_suffix(path.name))
    try:
        return path.is_file() and form_of(path) != ""
    except (DataError, OSError):
        return False


def form_of(file: Path) -> str:
    """`parquet`, `xlsx`, `json` (JSON Lines) or `text` (delimited cells).

    Raises
    ------
    DataError
        The file cannot be read, or is something else; the message says how to save it.
    """
    head = read_unpacked(file, _HEAD)
    named = Path(table_suffix(file.name)).name
    if head.startswith(b"PAR1"):
        return _packed_refused(file, head, "parquet")
    if head.startswith(b"PK\x03\x04"):
        return _packed_refused(file, head, _zipped(file))
    for mark, what in _REFUSED:
        if head.startswith(mark):
            raise DataError(f"{file}: {what}")
    if named in PARQUET and (not head or _is_binary(head)):
        return "parquet"  # the reader's own message says what is wrong
    if _is_binary(head):
        raise DataError(
            f"{file}: not a table: its bytes are not text. A table is a file of one of {', '.join(SUFFIXES)}"
        )
    return _form_of_text(file, head, named)


def _packed_refused(file: Path, head: bytes, form: str) -> str:
    with file.open("rb") as opened:
        if opened.read(4) != head[:4]:
            raise DataError(f"{file}: packed by gzip, which is read for texts only. Unpack it: gunzip FILE")
    return form


def _zipped(file: Path) -> str:
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
    """Whether bytes hold control characters that no text has; UTF-16 and UTF-32 have zeros."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:4] == b"\x00\x00\xfe\xff":
        return False
    if not any(head[1:8:2]) or not any(head[:8:2]):  # UTF-16 without a mark, or nothing
        return False
    return b"\x00" in head[:1024] and any(byte < 9 for byte in head[:1024] if byte)


def _form_of_text(file: Path, head: bytes, named: str) -> str:
    try:
        text = decoded(file, head[: len(head) // 4 * 4] if len(head) == _HEAD else head).text.lstrip()
    except DataError:  # cut within a letter; the whole file is decoded later
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
