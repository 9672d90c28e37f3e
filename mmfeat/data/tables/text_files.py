"""Text files as people save them: compression and encoding are told by the content, never by the name.

The rule for text that is neither UTF-8 nor marked as UTF-16 depends on the file's bytes alone. Western letters of one byte
stand singly in words of ASCII letters (as in "café"); text of other encodings does not look like that. So the file is read as
cp1252 where bytes that are not UTF-8 but fit into cp1252 text are at least ten times as many as everything that speaks
against it: characters of valid UTF-8, bytes that no cp1252 text has, and runs of high bytes. A file in which only a few bytes
are not UTF-8 stays UTF-8, and these bytes are left to the caller. Anything else is an error.
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
DAMAGE = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
_GZIP = b"\x1f\x8b"
_MARKS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MOST = 2**32  # bytes of an unpacked file: a small one may hold any number
_FEW = 16  # bytes that are not UTF-8 in a file that is otherwise
_WEIGHT = 10  # how many times what speaks for cp1252 exceeds what speaks against it
_FOREIGN = re.compile(
    rb"[\x81\x8d\x8f\x90\x9d\xff]"  # no characters of cp1252, and a filler
    rb"|[\x80-\xff]{4,}|[\xc0-\xff]{3,}"  # words of another alphabet
    rb"|(?<=[A-Za-z])[\xa1-\xa9\xab\xac\xae-\xb6\xb8\xb9\xbb-\xbf](?=[A-Za-z])"  # signs where letters stand
)


@dataclass(frozen=True)
class TextFile:
    """The text of a file and how it was stored.

    Attributes
    ----------
    text : str
        Without a byte order mark; a lone surrogate for each byte that is not UTF-8.
    encoding : str
        `UTF-8`, `UTF-16`, `UTF-32` or `cp1252`.
    marked : bool
        Whether it begins with a byte order mark.
    """

    text: str
    encoding: str = UTF8
    marked: bool = False

    def about(self, file: Path) -> list[str]:
        """What people should know about the encoding: a line where it was guessed, with a word to judge it by."""
        if self.encoding != CP1252:
            return []
        found = re.search(r"\w*[^\W\x00-\x7f]\w*|\S*[^\x00-\x7f]\S*", self.text)
        example = f", as in {shown(repr(found[0]), 40)}" if found else ""
        return [f"  {file.name} is not UTF-8: read as cp1252{example}. If that is wrong, save it as UTF-8"]


def read_text(file: Path) -> TextFile:
    """Read a text file, packed by gzip or not, in UTF-8, UTF-16, UTF-32 or cp1252.

    Raises
    ------
    DataError
        The file cannot be read or unpacked, or its encoding cannot be told.
    """
    return decoded(file, read_unpacked(file))


def read_unpacked(file: Path, limit: int = -1) -> bytes:
    """The bytes of a file, unpacked where gzip packed it; the first `limit` of them, or all.

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
    """Text of bytes; see :func:`read_text`."""
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
    """Nothing, or a DataError that names the first byte that is not UTF-8."""
    found = DAMAGE.search(text)
    if found:
        raise DataError(f"{file}:{line}: not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x}). Save the table as UTF-8")


def _counts(text: str) -> tuple[int, int]:
    """How many bytes are not UTF-8, and how many characters beyond ASCII are."""
    n_bad = len(DAMAGE.findall(text))
    return n_bad, len(re.findall("[^\x00-\x7f]", text)) - n_bad


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: the first four characters are ASCII."""
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
