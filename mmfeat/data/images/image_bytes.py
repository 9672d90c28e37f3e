"""Image files as bytes: separates image data from metadata, without decoding.

JPEG, PNG and WebP files are lists of named parts. Two files can therefore be compared by their image data alone, and metadata
that makes a decoder fail can be left out.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator

PIXEL_DIGEST = 16  # bytes

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # the chunks that pixels depend on
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_METADATA = 0x20 | 0x08 | 0x04  # VP8X's flags: ICC profile, EXIF, XMP
_APP0, _APP1, _APP14, _APP15, _COM, _SOS, _EOI = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDA, 0xD9
_JPEG_END = re.compile(rb"\xff\xd9")  # three times as fast as bytes.find
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_EXIF = b"Exif\0\0"


def pixel_digest(data: bytes) -> bytes | None:
    """Digest (16 bytes) of a file's image data; None for formats without separate metadata and for damaged files.

    Copies of an image that differ only in metadata (including orientation) have the same digest. It covers, for JPEG, all
    segments from the first table to the end marker except APPn and COM, but including Adobe's APP14, which defines the
    colour transform; for PNG, IHDR, PLTE, tRNS and IDAT; for WebP, VP8, VP8L, ALPH, ANIM and ANMF.
    """
    digest = hashlib.blake2b(digest_size=PIXEL_DIGEST)
    try:
        if data[:2] == b"\xff\xd8":
            _feed_jpeg(digest, data)
        elif data[:8] == _PNG:
            _feed_png(digest, data)
        elif _is_webp(data):
            for name, payload in _webp_chunks(data):
                if name in _WEBP_PIXELS:
                    digest.update(struct.pack("<4sI", name, len(payload)))
                    digest.update(payload)
        else:
            return None
    except (ValueError, struct.error):
        return None
    return digest.digest()


def without_metadata(data: bytes) -> bytes | None:
    """The same image without metadata except its orientation; None for other formats and damaged files.

    It decodes to the same pixels, whatever is wrong with the metadata.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _bare_jpeg(data)
        if data[:8] == _PNG:
            return _bare_png(data)
        if _is_webp(data):
            return _bare_webp(data)
    except (ValueError, struct.error):
        pass
    return None


def deep(data: bytes) -> bool:
    """Whether an image may have more than 8 bits per channel: 16-bit PNG, and formats that mmfeat does not parse.
    False for JPEG, WebP, GIF, BMP and other PNG.
    """
    if data[:8] == _PNG:
        return data[24:25] == b"\x10"
    return not (data[:2] in (b"\xff\xd8", b"BM") or data[:4] == b"GIF8" or _is_webp(data))


def ended_jpeg(data: bytes) -> bytes | None:
    """A truncated JPEG, completed by an end marker; None for other files, and for a JPEG that is not cut within its pixels."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        any(code == _SOS for code, *_ in _jpeg_segments(data))
    except ValueError:  # the file ends before its pixels
        return None
    return data + b"\xff\xd9"


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end (including the marker) of each segment up to the first SOS, whose end is the file's end."""
    at, last = 2, len(data) - 4
    while at <= last:
        if data[at] != 0xFF:
            raise ValueError("no marker where one should be")
        code = data[at + 1]
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code == _SOS:
            yield code, at, len(data)
            return
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if code == _EOI or end < at + 4:
            break
        yield code, at, end
        at = end
    raise ValueError("it ends before its pixels")


def _is_metadata(code: int, payload: bytes) -> bool:
    """Whether a JPEG segment does not affect the pixels."""
    if code == _APP14:
        return not payload.startswith(b"Adobe") or len(payload) < 12
    return _APP0 <= code <= _APP15 or code == _COM


def _feed_jpeg(digest: hashlib.blake2b, data: bytes) -> None:
    view, begin = memoryview(data), 2
    for code, start, end in _jpeg_segments(data):
        if code == _SOS:
            last = _JPEG_END.search(data, start)  # data after the end marker are not part of the image
            digest.update(view[begin : last.end() if last else end])
        elif code >= _APP0 and _is_metadata(code, data[start + 4 : min(end, start + 32)]):
            digest.update(view[begin:start])
            begin = end


def _bare_jpeg(data: bytes) -> bytes:
    parts, exif, xmp = [], b"", b""
    for code, start, end in _jpeg_segments(data):
        payload = data[start + 4 : end] if code != _SOS else b""
        if code == _APP1 and payload.startswith(_EXIF):
            exif += payload[len(_EXIF) :]
        elif code == _APP1:
            xmp += payload
        jfif = code == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14  # defines the colour transform
        if jfif or not _is_metadata(code, payload):
            parts.append(data[start:end])
    tag = _EXIF + _exif_of(_orientation(exif, xmp))
    segment = struct.pack(">BBH", 0xFF, _APP1, len(tag) + 2) + tag
    return b"".join([b"\xff\xd8", segment, *parts])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end (including length and checksum) of each chunk up to IEND or the end of the file."""
    at = len(_PNG)
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, at, at + 12 + size
        if name == b"IEND":
            return
        at += 12 + size
    if at == len(_PNG):
        raise ValueError("no chunk")


def _feed_png(digest: hashlib.blake2b, data: bytes) -> None:
    view, before = memoryview(data), b""
    for name, start, end in _png_chunks(data):
        if name in _PNG_PIXELS:
            if name != before:  # the division of data into chunks is arbitrary
                digest.update(name)
            digest.update(view[start + 8 : end - 4])
            before = name


def _bare_png(data: bytes) -> bytes:
    parts, exif, xmp = [], b"", b""
    for name, start, end in _png_chunks(data):
        payload = data[start + 8 : end - 4]
        if name in (*_PNG_PIXELS, b"IEND"):
            parts.append(data[start:end])
        elif name == b"eXIf":
            exif = payload.removeprefix(_EXIF)
        elif name in (b"tEXt", b"zTXt") and payload.startswith(b"Raw profile type exif\0") and not exif:
            exif = _raw_profile(payload, name == b"zTXt")
        elif name == b"iTXt" and payload.startswith(b"XML:com.adobe.xmp\0"):
            xmp = payload
    tag = _exif_of(_orientation(exif, xmp))
    chunk = struct.pack(">I4s", len(tag), b"eXIf") + tag + struct.pack(">I", zlib.crc32(b"eXIf" + tag))
    return b"".join([_PNG, parts[0], chunk, *parts[1:]]) if parts else b""


def _raw_profile(payload: bytes, packed: bool) -> bytes:
    """The EXIF data of ImageMagick's text chunk; empty if they cannot be read."""
    text = payload.partition(b"\0")[2]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text[1:], 1 << 20)
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:])).removeprefix(_EXIF)
    except (ValueError, zlib.error):
        return b""


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, view[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _bare_webp(data: bytes) -> bytes:
    exif, xmp = b"", b""
    kept: list[tuple[bytes, bytes]] = []
    for name, payload in _webp_chunks(data):
        if name == b"EXIF":
            exif = bytes(payload).removeprefix(_EXIF)
        elif name == b"XMP ":
            xmp = bytes(payload)
        elif name == b"VP8X" or name in _WEBP_PIXELS:
            kept.append((name, bytes(payload)))
    if kept and kept[0][0] == b"VP8X":  # only this form can have an orientation
        flags = kept[0][1][:1]
        if len(flags):
            kept[0] = (b"VP8X", bytes([flags[0] & ~_WEBP_METADATA | 0x08]) + kept[0][1][1:])
            kept.append((b"EXIF", _exif_of(_orientation(exif, xmp))))
    chunks = [struct.pack("<4sI", name, len(p)) + p + b"\0" * (len(p) % 2) for name, p in kept]
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Orientation from 1 to 8: from EXIF, otherwise from XMP, otherwise 1."""
    found = _exif_orientation(exif)
    if not found and (match := _XMP_ORIENTATION.search(xmp)):
        found = int(match[1])
    return found or 1


def _exif_orientation(exif: bytes) -> int:
    """The orientation tag of the first directory; 0 without one."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 0
    at = struct.unpack_from(order + "I", exif, 4)[0]
    if at + 2 > len(exif):
        return 0
    for number in range(struct.unpack_from(order + "H", exif, at)[0]):
        entry = at + 2 + 12 * number
        if entry + 12 > len(exif):
            return 0
        tag, kind, count = struct.unpack_from(order + "HHI", exif, entry)
        if tag == _ORIENTATION and count == 1 and kind in (3, 4):
            value = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)[0]
            return value if 1 <= value <= 8 else 0
    return 0


def _exif_of(orientation: int) -> bytes:
    """EXIF data with only an orientation."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
