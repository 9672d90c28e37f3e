"""Archives of images: reads single members of zip and uncompressed tar files by their position in the file."""

from __future__ import annotations

import bz2
import contextlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from mmfeat.common.errors import DataError
from mmfeat.common.remembered import stamp_of

ARCHIVES = (".zip", ".tar")
NO_RANDOM_ACCESS = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
MAX_BYTES = 512 * 2**20  # of one image file; anything larger is treated as a decompression bomb
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    OSError,
    ValueError,
    OverflowError,
    EOFError,
    LookupError,
    NotImplementedError,
)
_ENCODINGS = ("cp1252", "cp850", "cp949", "cp932", "gbk")  # tried for names that are not UTF-8
_INFLATE = {zipfile.ZIP_DEFLATED: lambda: zlib.decompressobj(-15), zipfile.ZIP_BZIP2: bz2.BZ2Decompressor}
_LOCAL = struct.Struct("<4s22xHH")  # a zip member's header: signature, length of name, length of extra field

Place = tuple[int, ...]


class Archive:
    """One archive, in the state in which it was listed. It is reopened for each read, so that many archives and threads can be used.

    Attributes
    ----------
    stamp : tuple of int
        The file's stamp before it was listed.
    others : dict of str to list of str
        Other possible names of members whose names have an unknown encoding; filled by `members`.
    """

    kind = ""

    def __init__(self, file: str) -> None:
        self.file = file
        self.others: dict[str, list[str]] = {}
        try:
            self.stamp = stamp_of(os.stat(file))
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None

    def members(self) -> Iterator[tuple[str, Place]]:
        """Name and place of each regular file in the archive, in order; links, devices and folders are skipped.

        Raises
        ------
        DataError
            The archive is damaged or truncated, or a member's path leaves the archive's folder.
        """
        try:
            with open(self.file, "rb") as handle:
                yield from self._members(handle)
        except _DAMAGE as error:
            raise DataError(f"{self.file}: not a {self.kind} file that can be read: {error}") from None

    def read(self, name: str, place: Place) -> bytes:
        """A member's bytes.

        Raises
        ------
        OSError, DataError
            The member cannot be read, is damaged, or is larger than any image.
        """
        handle = os.open(self.file, os.O_RDONLY)
        try:
            if stamp_of(os.fstat(handle)) != self.stamp:
                raise DataError(f"{self.file}: changed since it was listed. Run the command again")
            return self._read(handle, place)
        except _DAMAGE as error:
            if isinstance(error, OSError):
                raise
            raise DataError(f"{self.file}: member {name!r} cannot be read: {error}") from None
        finally:
            os.close(handle)

    def _members(self, handle: BinaryIO) -> Iterator[tuple[str, Place]]:
        raise NotImplementedError

    def _read(self, handle: int, place: Place) -> bytes:
        raise NotImplementedError


class ZipArchive(Archive):
    """A zip file; a place is offset, compressed size, size, checksum, method and whether it is encrypted."""

    kind = "zip"

    def _members(self, handle: BinaryIO) -> Iterator[tuple[str, Place]]:
        with zipfile.ZipFile(handle) as archive:
            for info in archive.infolist():
                name = self._name(info)
                if not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
                    encrypted = info.flag_bits & 1
                    yield (
                        name,
                        (
                            info.header_offset,
                            info.compress_size,
                            info.file_size,
                            info.CRC,
                            info.compress_type,
                            encrypted,
                        ),
                    )

    def _name(self, info: zipfile.ZipInfo) -> str:
        """A member's name: decoded as UTF-8 if that is valid, whatever the flag says; otherwise as cp437, the zip default."""
        name = _inside(self.file, info.filename)
        if info.filename.isascii() or info.flag_bits & 0x800:
            return name
        try:
            found = meanings(info.filename.encode("cp437"))
        except UnicodeEncodeError:  # an extra field gave the name
            return name
        if len(found) == 1:
            found, name = [name], _inside(self.file, found[0])
        self.others[name] = found
        return name

    def _read(self, handle: int, place: Place) -> bytes:
        offset, packed, size, checksum, method, encrypted = place
        if encrypted:
            raise ValueError("it is encrypted")
        if method != zipfile.ZIP_STORED and method not in _INFLATE:
            raise ValueError(f"its compression (method {method}) is not supported. Make the archive again with deflate")
        check_size(max(size, packed))
        signature, name_length, extra_length = _LOCAL.unpack(_exactly(handle, _LOCAL.size, offset))
        if signature != b"PK\3\4":
            raise ValueError("no member begins where the archive says")
        data = _exactly(handle, packed, offset + _LOCAL.size + name_length + extra_length)
        if method in _INFLATE:
            data = _INFLATE[method]().decompress(data, size + 1)  # no more than declared
        if len(data) != size or zlib.crc32(data) != checksum:
            raise ValueError("its size or checksum is not that of the archive's list")
        return data


class TarArchive(Archive):
    """An uncompressed tar file; a place is offset and size."""

    kind = "tar"

    def _members(self, handle: BinaryIO) -> Iterator[tuple[str, Place]]:
        with tarfile.open(fileobj=handle, mode="r:") as archive:
            before = -1
            while (info := archive.next()) is not None:
                archive.members.clear()  # frees a kilobyte per member
                if info.size < 0 or info.offset <= before:
                    raise ValueError(f"damaged at byte {info.offset}")
                before = info.offset
                name = _inside(self.file, info.name)
                if info.issparse():
                    raise ValueError(f"member {name!r} is sparse. Make the archive again without --sparse")
                if info.isreg():
                    if found := undecoded(name):
                        self.others[name] = found
                    yield name, (info.offset_data, info.size)
            # Without this check, an archive cut between two members would look like one with fewer members.
            handle.seek(archive.offset)
            if handle.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"cut short or damaged at byte {archive.offset}")

    def _read(self, handle: int, place: Place) -> bytes:
        offset, size = place
        check_size(size)
        return _exactly(handle, size, offset)


def open_archive(file: str) -> Archive:
    """Open a zip or tar file, by its suffix."""
    return (ZipArchive if file.lower().endswith(".zip") else TarArchive)(file)


def meanings(name: bytes) -> list[str]:
    """Possible paths for the bytes of a name: one if they are UTF-8, otherwise one for each common encoding."""
    with contextlib.suppress(UnicodeDecodeError):
        return [name.decode()]
    found = []
    for encoding in _ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            found.append(clean_name(name.decode(encoding)))
    return list(dict.fromkeys(filter(None, found)))


def undecoded(path: str) -> list[str]:
    """Possible paths for a name whose bytes are not UTF-8; empty for UTF-8."""
    if path.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in path):
        return []
    return meanings(path.encode("utf-8", "surrogateescape"))


def check_size(size: int) -> None:
    """Refuse files that are larger than any image.

    Raises
    ------
    ValueError
        The size is above `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise ValueError(f"{size / 2**20:,.0f} MiB, and an image has at most {MAX_BYTES / 2**20:,.0f}")


def clean_name(name: str) -> str | None:
    """A relative path with `/` between its parts (some tools write backslashes); None if it leaves its folder."""
    name = name.replace("\\", "/")
    if name.startswith("/") or name[1:3] == ":/":
        return None
    parts = name.split("/")
    if ".." in parts:
        return None
    if "" in parts or "." in parts:
        return "/".join(part for part in parts if part not in ("", "."))
    return name


def _inside(file: str, name: str) -> str:
    path = clean_name(name)
    if path is None:
        raise DataError(f"{file}: member {name[:80]!r} leaves the archive's folder. Make the archive again without it")
    return path


def _exactly(handle: int, size: int, offset: int) -> bytes:
    """Exactly `size` bytes from an offset; concurrent reads of one handle do not interfere."""
    data = os.pread(handle, size, offset)
    while len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            raise ValueError("the archive ends within it")
        data += more
    return data
