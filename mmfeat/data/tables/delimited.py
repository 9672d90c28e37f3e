"""Reads CSV and TSV files, including files whose last column has unescaped quotes, commas and line breaks.

The delimiter (comma, semicolon, tab or bar) is detected for each file. Some published tables quote captions without escaping
the quotes inside. Their records are recognised by how they begin: a line that starts with the name of an image, or with an id
like that of the first record, followed by all cells but the last, begins a new record; any other line continues the record
before. The text between the outer quotes of the last cell is the caption, to the letter. No record is ever dropped: an
unreadable record, or a line that could either begin or continue a record, is an error with its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.tables.text_files import DAMAGE, TextFile, read_text, refuse_damage

csv.field_size_limit(2**31 - 1)

DELIMITERS = (",", ";", "\t", "|")
TABBED = (".tsv", ".tab")  # files with a single column are read as tab-separated
_HEAD = 2**20  # characters that contain the header


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row's cells, its first line (the header is line 1), and a note if it was recovered.

    Bytes that are not UTF-8 are lone surrogates until :func:`repaired` replaces them.
    """

    line: int
    cells: list[str]
    note: str = ""
    damaged: bool = False


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """A file of delimited cells, with its delimiter and encoding.

    Attributes
    ----------
    records : list of Record
        Without the header.
    delimiter : str
        The separator of cells.
    file : TextFile
        The whole text, its encoding and whether it has a byte-order mark.
    """

    header: list[str]
    records: list[Record]
    delimiter: str
    file: TextFile


def read_records(file: Path, recover: bool = False) -> tuple[list[str], list[Record]]:
    """The header and the records of a file of delimited cells, see :func:`read_delimited`."""
    found = read_delimited(file, recover)
    return found.header, found.records


def read_delimited(file: Path, recover: bool = False) -> Delimited:
    """Read a CSV or TSV file; :func:`repaired` then handles bytes that are not UTF-8.

    mmfeat reads every file of delimited cells with this function, so that encoding, compression, delimiter and quotes are
    treated the same everywhere. Quotes also count in tab-separated files, unless the file is invalid then: in that case they
    are ordinary characters.

    Parameters
    ----------
    recover : bool
        Whether records that are not valid CSV may be recovered; otherwise they are an error.

    Raises
    ------
    DataError
        The file cannot be read, is empty, has a header that is not UTF-8, or a malformed record.
    """
    found = read_text(file)
    refuse_damage(file, 1, found.text.partition("\n")[0])  # detects another encoding before parsing
    if not found.text.strip():
        raise DataError(f"{file}: empty. A table has a header and at least one row")
    delimiter = delimiter_of(found.text, usual_delimiter(file))
    try:
        try:
            header, records = _read_strictly(found.text, delimiter)
        except (csv.Error, _Uneven):
            if delimiter != "\t":
                raise
            header, records = _read_strictly(found.text, delimiter, csv.QUOTE_NONE)
    except (csv.Error, _Uneven) as error:
        if not recover or delimiter != ",":
            kind = "TSV" if delimiter == "\t" else "CSV"
            raise DataError(
                f"{file}{error if isinstance(error, _Uneven) else f': not valid {kind}: {error}'}"
            ) from None
        header, records = _recover(file, found.text)
    for name in header:
        refuse_damage(file, 1, name)
    if not records:
        raise DataError(f"{file}: has a header and no row")
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise DataError(f"{file}:1: column {sorted(repeated)[0]!r} occurs twice. Rename one of them")
    return Delimited(header=header, records=records, delimiter=delimiter, file=found)


def usual_delimiter(file: Path) -> str:
    """The delimiter by a file's name: a tab for `.tsv` and `.tab` (also with `.gz`), otherwise a comma."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    own = suffixes[0] if len(suffixes) > 1 and suffixes[1] == ".gz" else (suffixes or [""])[-1]
    return "\t" if own in TABBED else ","


def delimiter_of(text: str, usual: str = ",") -> str:
    """The delimiter of a text, detected in its header.

    Of several candidates, those that give every record as many cells as the header come first, then `usual`, then the one
    with most cells. Without a candidate there is a single column.
    """
    widths = {mark: _header_width(text[:_HEAD], mark) for mark in DELIMITERS}
    several = [mark for mark in DELIMITERS if widths[mark] > 1]
    if len(several) > 1:
        several = [mark for mark in several if _is_even(text, mark)] or several
    return usual if usual in several or not several else max(several, key=widths.__getitem__)


def _header_width(text: str, delimiter: str) -> int:
    try:
        return next((len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row), 0)
    except csv.Error:
        return 0


def _is_even(text: str, delimiter: str) -> bool:
    try:
        _read_strictly(text, delimiter)
    except (csv.Error, _Uneven):
        return False
    return True


def repaired(file: Path, records: list[Record], columns: Collection[int] = ()) -> Iterator[Record]:
    """Records in UTF-8: in the columns that may be damaged, invalid bytes become U+FFFD.

    Raises
    ------
    DataError
        Another column has a byte that is not UTF-8.
    """
    for record in records:
        if any(map(DAMAGE.search, record.cells)):
            cells = list(record.cells)
            for column in columns:
                cells[column] = cells[column].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for cell in cells:
                refuse_damage(file, record.line, cell)
            record = replace(record, cells=cells, damaged=True)
        yield record


class _Uneven(Exception):
    """A record has more or fewer cells than the header."""


def _read_strictly(text: str, delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> tuple[list[str], list[Record]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, quoting=quoting)
    records, begin = [], 1
    try:
        for cells in reader:
            if cells:  # blank lines are skipped
                records.append(Record(line=begin, cells=cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {begin}: {error}") from None
    header = [name.strip() for name in records[0].cells]
    for record in records[1:]:
        if len(record.cells) != len(header):
            raise _Uneven(f":{record.line}: {len(record.cells)} cells under a header of {len(header)}")
    return header, records[1:]


def _recover(file: Path, text: str) -> tuple[list[str], list[Record]]:
    """Read records that are recognised by how they begin; the last column may contain anything."""
    lines = text.split("\n")
    try:
        header = [name.strip() for name in next(csv.reader([lines[0].removesuffix("\r")], strict=True))]
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{file}:1: the header is not valid CSV: {error}") from None
    first = next((line for line in lines[1:] if line.strip()), "")
    begins = re.compile(_beginning(_identity(first.partition(",")[0].strip('"')), len(header)))
    if not begins.match(first):
        raise DataError(f"{file}:2: not valid CSV, and no id begins this record: {first[:40]!r}")
    whole = re.compile(_beginning(r'[^,"\n]+', len(header)))
    records = []
    for line, raw in _join_lines(file, lines, begins, whole=whole):
        records.append(_read_record(file, line, raw, n_columns=len(header), begins=begins))
    return header, records


def _identity(sample: str) -> str:
    """A pattern of ids: names of images (with spaces), and words if the first record's id is not the name of an image."""
    own = re.search(r"\.[A-Za-z]\w{1,4}$", sample)
    suffixes = "|".join(re.escape(suffix) for suffix in {*IMAGE_SUFFIXES, *([own[0].lower()] if own else [])})
    image = rf'(?i:[^,"\n]+(?:{suffixes})|"[^"\n]+(?:{suffixes})")'
    return image if own else rf'{image}|"?[^\s,"]+"?'


def _beginning(identity: str, n_columns: int) -> str:
    """A pattern of the beginning of a record: an id, then all plain cells but the last."""
    # cells between id and last column: without quotes, or quoted without quotes inside
    return rf"(?:{identity})," + r'(?:[^",\n]*|"[^"\n]*"),' * (n_columns - 2)


def _join_lines(
    file: Path, lines: list[str], begins: re.Pattern[str], *, whole: re.Pattern[str]
) -> Iterator[tuple[int, str]]:
    """Join lines to records; yields the number of the first line and the text of each."""
    start, held = 0, []
    for number, line in enumerate(lines[1:], 2):
        if begins.match(line):
            if held:
                yield start, "\n".join(held)
            start, held = number, [line]
        elif held:
            if _reads_as_record(line, whole) and _closed("\n".join(held), begins):
                raise DataError(
                    f"{file}:{number}: not valid CSV, and this line may begin a record or continue the caption of "
                    f"line {start}: {line[:40]!r}. Quote the caption as CSV does, or begin the line with an id like the others"
                )
            held.append(line)
    if held:
        yield start, "\n".join(held)


def _reads_as_record(line: str, whole: re.Pattern[str]) -> bool:
    """Whether a line has all cells of a record (with any id): the last cell has no quotes, or two outer ones."""
    found = whole.match(line)
    last = line[found.end() :].rstrip("\r") if found else '"'
    return '"' not in last or (len(last) > 1 and last[0] == last[-1] == '"')


def _closed(raw: str, begins: re.Pattern[str]) -> bool:
    """Whether a record may end here: its last cell has no opening quote, or also a closing one."""
    last = raw[begins.match(raw).end() :].rstrip("\r")
    return not last.startswith('"') or (len(last) > 1 and last.endswith('"'))


def _read_record(file: Path, line: int, raw: str, *, n_columns: int, begins: re.Pattern[str]) -> Record:
    raw = raw.rstrip("\r\n")
    try:
        rows = list(csv.reader(io.StringIO(raw, newline=""), strict=True))
        if len(rows) == 1 and len(rows[0]) == n_columns:
            note = "a caption with line breaks" if "\n" in raw else ""
            return Record(line=line, cells=rows[0], note=note)
    except csv.Error:
        pass
    match = begins.match(raw)
    head, last = raw[: match.end() - 1], raw[match.end() :]
    cells = next(csv.reader([head]))
    if len(cells) != n_columns - 1:
        raise DataError(
            f"{file}:{line}: {len(cells)} cells before the last, the header has {n_columns - 1}: {raw[:40]!r}"
        )
    if last.startswith('"'):
        if len(last) < 2 or not last.endswith('"'):
            raise DataError(f"{file}:{line}: a quote is opened and not closed: {last[:40]!r}. Close it, or remove it")
        last = last[1:-1]
    return Record(
        line=line, cells=[*cells, last], note="recovered a caption with unescaped quotes, commas or line breaks"
    )
