"""Records of a CSV or TSV file, also of one whose last column holds unescaped quotes, commas and line breaks.

Cells are separated by commas, semicolons, tabs or bars; which, is decided here for every file. Some published tables
quote their captions without escaping the quotes inside. There a record is told by how it begins: a line that starts with
the name of an image, or with an id like that of the first record, followed by the cells before the last, begins a new one;
any other line goes on with the one before. What stands between the outer quotes of the last
cell is the caption, to the letter. No record is ever dropped: one that cannot be read, or a line that could as well
begin a record as go on with one, is an error with its line.
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
TABBED = (".tsv", ".tab")  # files whose only column is read as one of tabs
_HEAD = 2**20  # letters in which a header ends


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row's cells, the line it begins at (the header's is 1), and a note where it had to be recovered.

    A byte that is not UTF-8 stands in a cell as a lone surrogate, until :func:`repaired` has seen it.
    """

    line: int
    cells: list[str]
    note: str = ""
    damaged: bool = False


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """A file of delimited cells and the form it was found in.

    Attributes
    ----------
    records : list of Record
        Without the header.
    delimiter : str
        What stands between cells.
    file : TextFile
        The whole text, its encoding and its byte order mark.
    """

    header: list[str]
    records: list[Record]
    delimiter: str
    file: TextFile


def read_records(file: Path, recover: bool = False) -> tuple[list[str], list[Record]]:
    """The header's names and all records of a file of delimited cells, as :func:`read_delimited` finds them."""
    found = read_delimited(file, recover)
    return found.header, found.records


def read_delimited(file: Path, recover: bool = False) -> Delimited:
    """Read a CSV or TSV file in whatever form it was saved; :func:`repaired` sees to bytes that are not UTF-8.

    Every file of delimited cells that mmfeat reads is read here, so that encoding, compression, delimiter and quotes are
    decided once. Quotes mean between tabs what they mean between commas, unless the file cannot be read like this: then
    they are letters like others.

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
    refuse_damage(file, 1, found.text.partition("\n")[0])  # another encoding shows here, before it parses as nonsense
    if not found.text.strip():
        raise DataError(f"{file}: empty. A table has a header and at least one row")
    delimiter = delimiter_of(found.text, usual_delimiter(file))
    try:
        try:
            header, records = _strict(found.text, delimiter)
        except (csv.Error, _Uneven):
            if delimiter != "\t":
                raise
            header, records = _strict(found.text, delimiter, csv.QUOTE_NONE)
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
        raise DataError(f"{file}:1: column {sorted(repeated)[0]!r} stands there twice")
    return Delimited(header=header, records=records, delimiter=delimiter, file=found)


def usual_delimiter(file: Path) -> str:
    """What stands between cells by a file's name: a tab in `.tsv` and `.tab`, also where gzip packed them, else a comma."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    own = suffixes[0] if len(suffixes) > 1 and suffixes[1] == ".gz" else (suffixes or [""])[-1]
    return "\t" if own in TABBED else ","


def delimiter_of(text: str, usual: str = ",") -> str:
    """What stands between the cells of a text: what separates the header's.

    Where several do, those by which all records have as many cells as the header come first; then `usual`; then the one
    that gives most cells. Where none does there is one column.
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
        _strict(text, delimiter)
    except (csv.Error, _Uneven):
        return False
    return True


def repaired(file: Path, records: list[Record], columns: Collection[int] = ()) -> Iterator[Record]:
    """Records whose text is UTF-8: in the columns that may be damaged, bytes that are not become U+FFFD.

    Raises
    ------
    DataError
        A byte of another column is not UTF-8.
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


def _strict(text: str, delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> tuple[list[str], list[Record]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, quoting=quoting)
    records, begin = [], 1
    try:
        for cells in reader:
            if cells:  # a blank line is no record
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
    """Read records by how they begin; the last column may hold anything."""
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
    for line, raw in _grouped(file, lines, begins, whole=whole):
        records.append(_read_record(file, line, raw, n_columns=len(header), begins=begins))
    return header, records


def _identity(sample: str) -> str:
    """A pattern of ids: names of images, spaces and all; and words, where the first record's id is no image's name."""
    own = re.search(r"\.[A-Za-z]\w{1,4}$", sample)
    suffixes = "|".join(re.escape(suffix) for suffix in {*IMAGE_SUFFIXES, *([own[0].lower()] if own else [])})
    image = rf'(?i:[^,"\n]+(?:{suffixes})|"[^"\n]+(?:{suffixes})")'
    return image if own else rf'{image}|"?[^\s,"]+"?'


def _beginning(identity: str, n_columns: int) -> str:
    """A pattern of how records begin: an id, then the plain cells before the last."""
    # the cells between id and the last column: without quotes, or quoted and without quotes inside
    return rf"(?:{identity})," + r'(?:[^",\n]*|"[^"\n]*"),' * (n_columns - 2)


def _grouped(
    file: Path, lines: list[str], begins: re.Pattern[str], *, whole: re.Pattern[str]
) -> Iterator[tuple[int, str]]:
    """Lines joined to records, each with the number of its first line."""
    start, held = 0, []
    for number, line in enumerate(lines[1:], 2):
        if begins.match(line):
            if held:
                yield start, "\n".join(held)
            start, held = number, [line]
        elif held:
            if _reads_as_record(line, whole) and _closed("\n".join(held), begins):
                raise DataError(
                    f"{file}:{number}: not valid CSV, and this line may begin a record or go on with the caption of "
                    f"line {start}: {line[:40]!r}. Quote the caption as CSV does, or begin the line with an id like the others"
                )
            held.append(line)
    if held:
        yield start, "\n".join(held)


def _reads_as_record(line: str, whole: re.Pattern[str]) -> bool:
    """Whether a line has all cells of a record, whatever its id: the last without quotes, or between two."""
    found = whole.match(line)
    last = line[found.end() :].rstrip("\r") if found else '"'
    return '"' not in last or (len(last) > 1 and last[0] == last[-1] == '"')


def _closed(raw: str, begins: re.Pattern[str]) -> bool:
    """Whether a record may end here: its last cell has no opening quote, or a closing one too."""
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
