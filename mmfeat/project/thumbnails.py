"""Thumbnails of a project's rows, made once and kept in its store."""

from __future__ import annotations

import numpy as np

from mmfeat.encoders.decoding import Decoding
from mmfeat.project.project import Project
from mmfeat.store.commits import THUMBNAILS
from mmfeat.store.rows import Found
from mmfeat.store.thumbnail_store import THUMBNAILS_KEY, PictureStatistics, ThumbnailStore


def thumbnails(project: Project, rows: np.ndarray, *, make: bool = True) -> list[bytes | None]:
    """JPEG files of some rows' pictures: upright, at most 256 pixels a side, without metadata.

    Parameters
    ----------
    rows : np.ndarray
        `(n,)` int: rows of the manifest, in any order.
    make : bool
        Whether to make those that the store lacks. Nothing is made in a dry project.

    Returns
    -------
    list of bytes or None
        None for a row without a readable picture.

    Raises
    ------
    StoreError
        The store cannot be read or written.
    """
    store, found = _found(project, np.asarray(rows), make=make)
    return store.jpegs(found)


def picture_statistics(project: Project, rows: np.ndarray, *, make: bool = True) -> PictureStatistics:
    """Size, colours and a miniature of some rows' pictures; they are measured when thumbnails are made.

    Parameters and errors are those of :func:`thumbnails`.
    """
    store, found = _found(project, np.asarray(rows), make=make)
    return store.statistics(found)


def _found(project: Project, rows: np.ndarray, *, make: bool) -> tuple[ThumbnailStore, Found]:
    """The store of thumbnails and the places of some rows in it. A picture that is gone keeps its thumbnail."""
    store, kept = ThumbnailStore(project.store.path), project.kept_keys("image")
    found = store.lookup(kept.keys[rows]).only(kept.present[rows])
    if not make or project.dry:
        return store, found
    decoding, now = Decoding.of(project.config), project.row_keys("image") if kept.present.any() else kept
    lacking = rows[now.present[rows] & (found.missing | store.untried(found, decoding.record))]
    if not len(lacking):
        return store, found
    from mmfeat.extraction.encode import distinct_rows
    from mmfeat.extraction.thumbnail_making import make_thumbnails

    project.refer(THUMBNAILS_KEY, THUMBNAILS)
    read = project.samples.image_reader()
    make_thumbnails(store, now.keys, distinct_rows(now.keys, lacking), read=read, decoding=decoding)
    return store, store.lookup(kept.keys[rows]).only(kept.present[rows])
