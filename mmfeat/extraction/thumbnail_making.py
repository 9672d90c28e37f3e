"""Makes thumbnails of images, and measures their pixels in the same pass.

Images are decoded in threads and written in files of some thousand, so that a killed process loses few, and Ctrl-C none.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmfeat.common.progress import progress
from mmfeat.encoders.batches import UndecodableSample, UnreadSample, groups_of, prepared_batches
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.image_decoding import decode_image, reduction_of
from mmfeat.store.thumbnail_store import MINIATURE, PictureStatistics, ThumbnailStore

LONGEST_SIDE = 256  # pixels
QUALITY = 80
ROWS_PER_FILE = 2048
_GROUP = 16  # images that a thread decodes at a time


class Thumbnail(NamedTuple):
    """A thumbnail with facts of its picture."""

    jpeg: bytes
    width: int
    height: int
    n_bytes: int
    spread: float
    miniature: np.ndarray  # (32, 32, 3) uint8


def thumbnail_of(data: bytes, decoding: Decoding) -> Thumbnail:
    """The thumbnail of an image file's bytes.

    Raises
    ------
    UndecodableSample
        The bytes are not an image that `decoding` accepts.
    UnreadSample
        The decoder of its format is not installed.
    """
    image = decoded(data, decoding, LONGEST_SIDE)
    reduced = reduction_of(image)
    width, height = image.size if reduced is None else reduced.size
    small = shrunk(image)
    pixels = np.asarray(small, dtype=np.float32).reshape(-1, 3)
    miniature = np.asarray(small.resize((MINIATURE, MINIATURE), Image.Resampling.BOX))
    return Thumbnail(jpeg_of(small), width, height, len(data), float(pixels.std(0).max()), miniature)


def picture_of(data: bytes, decoding: Decoding, side: int) -> bytes:
    """A JPEG of an image file's bytes: upright, at most `side` pixels a side, without metadata. Raises as :func:`thumbnail_of`."""
    return jpeg_of(shrunk(decoded(data, decoding, side), side))


def decoded(data: bytes, decoding: Decoding, side: int) -> Image.Image:
    """The image of a file's bytes; a large JPEG keeps at least `side` pixels a side. Raises as :func:`thumbnail_of`."""
    try:
        return decode_image(data, decoding, side)
    except (UnreadSample, MemoryError):
        raise
    except Exception as error:  # decoders raise various errors
        raise UndecodableSample(error) from None


def shrunk(image: Image.Image, side: int = LONGEST_SIDE) -> Image.Image:
    """The image with its longest side at most `side`, without metadata."""
    reduced = reduction_of(image)
    width, height = image.size if reduced is None else reduced.size
    scale = min(1.0, side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = image.resize(size, Image.Resampling.LANCZOS, box=reduced and reduced.box)
    small.info = {}
    return small


def jpeg_of(image: Image.Image, quality: int = QUALITY) -> bytes:
    """An image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def make_thumbnails(
    store: ThumbnailStore, keys: np.ndarray, rows: np.ndarray, *, read: Callable[[int], bytes], decoding: Decoding
) -> dict[int, str]:
    """Make the thumbnails of some rows and add them to the store.

    Parameters
    ----------
    keys : np.ndarray
        `(N, 32)` uint8 row keys of all rows.
    rows : np.ndarray
        The rows to make, one for each distinct picture.
    read : callable
        Row to bytes; raises `UnreadSample` if they cannot be read.

    Returns
    -------
    dict of int to str
        Rows whose bytes could not be read, with the reason; nothing is stored for them.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    store.sweep()
    made: dict[int, Thumbnail | str] = {}
    unread: dict[int, str] = {}

    def write() -> None:
        if made:
            _write(store, keys[list(made)], list(made.values()), decoding)
            made.clear()

    batches = prepared_batches(groups_of(rows, _GROUP), lambda row: thumbnail_of(read(row), decoding), list)
    try:
        with progress("making thumbnails", len(rows), "images") as bar:
            for batch in batches:
                made.update(zip(batch.rows.tolist(), batch.inputs or (), strict=True))
                made.update(batch.undecodable)
                unread.update(batch.unread)
                bar.advance(len(batch.rows) + len(batch.undecodable) + len(batch.unread))
                if len(made) >= ROWS_PER_FILE:
                    write()
    finally:
        batches.close()
        write()
    return unread


def _write(store: ThumbnailStore, keys: np.ndarray, made: list[Thumbnail | str], decoding: Decoding) -> None:
    """Write thumbnails, and for each picture that cannot be decoded the reason."""
    statistics = PictureStatistics.none(len(made))
    for row, one in enumerate(made):
        if isinstance(one, Thumbnail):
            statistics.known[row] = True
            for name in ("width", "height", "n_bytes", "spread", "miniature"):
                getattr(statistics, name)[row] = getattr(one, name)
    jpegs = [one.jpeg if isinstance(one, Thumbnail) else b"" for one in made]
    errors = [one if isinstance(one, str) else "" for one in made]
    store.append(keys, jpegs, errors, statistics=statistics, attributes=dict(decoding.record))
