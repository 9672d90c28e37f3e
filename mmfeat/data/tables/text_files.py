"""Reads text files: compression and encoding are detected by content, never by name.

For text that is neither UTF-8 nor UTF-16 with a byte-order mark, only the file's bytes count. In cp1252 text, accented letters
occur singly within words of ASCII letters (as in "café"); other encodings do not look like that. A file is read as cp1252 if
bytes that are not UTF-8 but fit into cp1252 text are at least ten times as many as all evidence against it: valid UTF-8
characters, bytes that do not occur in cp1252 text, and runs of high bytes. A file with only a few bytes that are not UTF-8
stays UTF-8, and the caller handles these bytes. Anything else is an error.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import DataError
from mmfeat.common.text import shown

UTF8, CP1252 = "UTF-8", "cp1252"
DAMAGE = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape decodes them
_GZIP = b"\x1f\x8b"
_MARKS = (  # longer ones first: the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MOST = 2**32  # largest unpacked file in bytes: guards against bombs
_FEW = 16  # most invalid bytes in a file that counts as UTF-8
_WEIGHT = 10  # least ratio of evidence for cp1252 to evidence against it
_FOREIGN = re.compile(
    rb"[\x81\x8d\x8f\x90\x9d\xff]"  # not characters of cp1252, and a filler
    rb"|[\x80-\xff]{4,}|[\xc0-\xff]{3,}"  # words of another alphabet
    rb"|(?<=[A-Za-z])[\xa1-\xa9\xab\xac\xae-\xb6\xb8\xb9\xbb-\xbf](?=[A-Za-z])"  # symbols within words
)


@dataclass(frozen=True)
class TextFile:
    """The text of a file and how it was stored.

    Attributes
    ----------
    text : str
        The text without a byte-order mark; a lone surrogate for each byte that is not UTF-8.
    encoding : str
        `UTF-8`, `UTF-16`, `UTF-32` or `cp1252`.
    marked : bool
        Whether the file begins with a byte-order mark.
    """

    text: str
    encoding: str = UTF8
    marked: bool = False

    def about(self, file: Path) -> list[str]:
        """A line about a guessed encoding, with an example word to check it; empty if it was not guessed."""
        if self.encoding != CP1252:
            return []
        found = re.search(r"\w*[^\W\x00-\x7f]\w*|\S*[^\x00-\x7f]\S*", self.text)
        example = f", as in {shown(repr(found[0]), 40)}" if found else ""
        return [f"  {file.name} is not UTF-8: read as cp1252{example}. If that is wrong, save it as UTF-8"]


def read_text(file: Path) -> TextFile:
    """Read a text file in UTF-8, UTF-16, UTF-32 or cp1252, with or without gzip.

    Raises
    ------
    DataError
        The file cannot be read or unpacked, or its encoding is not recognised.
    """
    return decoded(file, read_unpacked(file))


def read_unpacked(file: Path, limit: int = -1) -> bytes:
    """The first `limit` bytes of a file (default: all), unpacked if it is compressed with gzip.

    Raises
    ------
    DataError
        The file cannot be read, is damaged, or is too large when unpacked.
    """
    try:
        with file.open("rb") as opened:
            if opened.peek(2)[:2] != _GZIP:
                return opened.read(limit)
            data = gzip.GzipFile(fileobj=opened).read(_MOST + 1 if limit < 0 else limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file}: cannot be unpacked by gzip: {error}. Pack it again, or unpack it") from None
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    if len(data) > _MOST:
        raise DataError(f"{file}: more than {_MOST >> 30} GB when unpacked. Unpack it, and save it as Parquet")
    return data


def decoded(file: Path, data: bytes) -> TextFile:
    """Decode bytes; see :func:`read_text`."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return TextFile(_strictly(file, data, encoding), encoding, True)
    if data.startswith(codecs.BOM_UTF8):
        return TextFile(data.decode("utf-8-sig", "surrogateescape"), UTF8, True)
    if (encoding := _unmarked_utf16(data)) is not None:
        return TextFile(_strictly(file, data, encoding), "UTF-16")
    try:
        return TextFile(data.decode("utf-8"))
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    n_bad, n_other = _counts(text)
    against = n_other + sum(len(found[0]) for found in _FOREIGN.finditer(data))
    if _WEIGHT * against <= n_bad:
        return TextFile(data.decode(CP1252, "surrogateescape"), CP1252)
    if n_bad > max(_FEW, n_other):
        found = DAMAGE.search(text)
        line = text.count("\n", 0, found.start()) + 1
        raise DataError(
            f"{file}:{line}: not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x}), nor UTF-16 or cp1252. Save the table as UTF-8"
        )
    return TextFile(text)


def refuse_damage(file: Path, line: int, text: str) -> None:
    """Raise a DataError for the first byte that is not UTF-8, if there is one."""
    found = DAMAGE.search(text)
    if found:
        raise DataError(f"{file}:{line}: not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x}). Save the table as UTF-8")


def _counts(text: str) -> tuple[int, int]:
    """Number of bytes that are not UTF-8, and of non-ASCII characters that are."""
    n_bad = len(DAMAGE.findall(text))
    return n_bad, len(re.findall("[^\x00-\x7f]", text)) - n_bad


def _unmarked_utf16(data: bytes) -> str | None:
    """Decode UTF-16 without a byte-order mark, recognised by four ASCII characters at the start; None otherwise."""
    head = data[:8]
    if len(head) == 8 and len(data) % 2 == 0:
        if not any(head[1::2]) and all(head[::2]):
            return "UTF-16-LE"
        if not any(head[::2]) and all(head[1::2]):
            return "UTF-16-BE"
    return None


def _strictly(file: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: damaged {encoding[:6]} at byte {error.start:,}. Save the table as UTF-8") from None
