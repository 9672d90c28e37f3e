"""Image files, whole and odd ones, and archives of them."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def is_drawn(file: Path) -> bool:
    """Whether a plot has been rendered, which most tests leave out (see the fixture `drawn`)."""
    with Image.open(file) as image:
        return image.width > 600 and len(np.unique(np.asarray(image.convert("L")))) > 20


def jpeg(colour=(200, 30, 30), size=(40, 30), mode="RGB", format="JPEG", **options) -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, colour).save(data, format, **options)
    return data.getvalue()


RAMP = (np.linspace(0, 1, 64) * np.linspace(0, 1, 48)[:, None]).astype(np.float32)  # (48, 64) from 0 to 1


def saved(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(name: bytes, payload: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + payload) if checksum is None else checksum
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", checksum)


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours `(H, W, 3 or 4)`, which Pillow cannot write."""
    height, width, n = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[n], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, data) for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    )


def zip_of(path, members: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def tar_of(path, members: dict[str, bytes], mode="w", **fields):
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(data))
    return path


MAKE = {"zip": zip_of, "tar": tar_of}


def textured(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture with structure at several scales, unlike that of any other seed."""
    rng, pixels = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += np.asarray(grid.resize(size, Image.Resampling.BICUBIC), float) / 4
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
