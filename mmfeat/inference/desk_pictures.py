"""The pictures of a review page: thumbnails from the store or, before they are made, from the image itself."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.encoders.batches import UndecodableSample, UnreadSample
from mmfeat.encoders.decoding import Decoding
from mmfeat.extraction.thumbnail_making import LONGEST_SIDE, picture_of
from mmfeat.project.project import Project
from mmfeat.project.thumbnails import thumbnails

LARGE_SIDE = 1600  # pixels
_AHEAD = 64  # thumbnails that are read from the store at a time
_KEPT = 2000  # thumbnails in memory: about 20 MB


class DeskPictures:
    """Pictures of rows of the manifest as JPEG files. Its methods may be called from several threads.

    Parameters
    ----------
    rows : sequence of int
        The rows in the order in which they are probably asked for.
    """

    def __init__(self, project: Project, rows: Sequence[int]) -> None:
        self._project, self._rows = project, list(rows)
        self._position = {row: at for at, row in enumerate(self._rows)}
        self._kept: OrderedDict[int, bytes | None] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = Decoding.of(project.config)

    def make_all(self) -> None:
        """Make the thumbnails of all rows that the store lacks."""
        if any(self._project.manifest.images[self._rows]):
            thumbnails(self._project, np.array(self._rows, dtype=np.int64))

    def thumbnail(self, row: int) -> bytes | None:
        """A small JPEG; None without a readable picture. Raises `IndexError` if there is no such row."""
        if not self._project.manifest.images[row]:
            return None
        with self._lock:
            if row not in self._kept:
                self._read_ahead(row)
            found = self._kept.get(row)
        if found is None and (found := self._made(row, LONGEST_SIDE)) is not None:
            with self._lock:
                self._kept[row] = found
        return found

    def picture(self, row: int) -> bytes | None:
        """A large JPEG; None without a readable picture. Raises `IndexError` if there is no such row."""
        return self._made(row, LARGE_SIDE) if self._project.manifest.images[row] else None

    def _read_ahead(self, row: int) -> None:
        """Read the thumbnails of a row and of those after it from the store, as far as it has them."""
        at = self._position.get(row)
        rows = [row] if at is None else [one for one in self._rows[at : at + _AHEAD] if one not in self._kept]
        try:
            found = thumbnails(self._project, np.array(rows, dtype=np.int64), make=False)
        except MmfeatError:  # a damaged store: pictures are made from the images
            return
        self._kept.update((one, jpeg) for one, jpeg in zip(rows, found, strict=True) if jpeg is not None)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _made(self, row: int, side: int) -> bytes | None:
        try:
            return picture_of(self._read(row), self._decoding, side)
        except (UnreadSample, UndecodableSample):
            return None

    @functools.cached_property
    def _read(self) -> Callable[[int], bytes]:
        return self._project.samples.image_reader()
