"""Nearest neighbours by cosine: exact, in blocks, up to 200,000 rows; by an inverted index of faiss beyond.

Memory is bounded: rows are read and normalised in blocks, and the index keeps 2 bytes of each value, or 1 if that is much.
The recall of the index is measured on a sample of the rows, and the index searches more of its lists until it is high enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

EXACT_ROWS = 200_000  # rows that are compared with as many rows; also the number of products
RECALL = 0.95  # of the neighbours of the sample
_SAMPLE = 500  # rows whose neighbours are searched exactly to measure the recall
_VALUES = 1 << 26  # float32 values of a block of rows: 256 MB
_QUERIES = 8192
_LISTED = 32  # training rows for each list of the index
_SMALL = 1 << 31  # bytes of an index of 2 bytes a value; a larger one has 1 byte a value


class Points(Protocol):
    """Embeddings `(N, D)`: an array, or rows that are read when they are indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, D)`."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Some rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The nearest other rows of each row.

    Attributes
    ----------
    cosines : np.ndarray
        `(N, k)` float32, falling; -inf where there are fewer rows.
    rows : np.ndarray
        `(N, k)` int64; -1 where there are fewer rows.
    recall : float
        The share of the true neighbours that are found, measured on a sample; 1 for an exact search.
    """

    cosines: np.ndarray
    rows: np.ndarray
    recall: float = 1.0


def nearest(points: Points, queries: Points, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of largest cosine with each query, found exactly.

    Parameters
    ----------
    points, queries : array-like
        `(N, D)` and `(Q, D)`; they need not be normalised. Rows of zeros have cosine 0.

    Returns
    -------
    tuple of np.ndarray
        Cosines `(Q, k)` float32, falling, and rows of `points` `(Q, k)` int64; -inf and -1 if there are fewer rows than k.
    """
    n_queries = queries.shape[0]
    cosines, rows = np.full((n_queries, k), -np.inf, np.float32), np.full((n_queries, k), -1, np.int64)
    for start, block in _blocks(points, max(1, _VALUES // max(1, points.shape[1]))):
        for at, some in _blocks(queries, _QUERIES):
            inside = slice(at, at + len(some))
            found, numbers = _search(some, block, min(k, len(block)))
            cosines[inside], rows[inside] = _merged(cosines[inside], rows[inside], found, numbers + start)
    return cosines, rows


def neighbours(points: Points, k: int) -> Neighbours:
    """The k nearest other rows of each row of `points` `(N, D)`.

    Above :data:`EXACT_ROWS` rows an index of faiss is used; without faiss the search is exact, and takes long.
    """
    faiss = _faiss() if points.shape[0] > EXACT_ROWS else None
    if faiss is None:
        cosines, rows = nearest(points, points, k + 1)
        return Neighbours(**_others(cosines, rows))
    index = _index(faiss, points)
    recall = _tune(index, points, k)
    parts = [index.search(block, k + 1) for _, block in _blocks(points, _QUERIES)]
    cosines, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Neighbours(**_others(cosines, rows), recall=recall)


def _index(faiss: ModuleType, points: Points) -> Any:
    """An inverted index of all points, filled in blocks."""
    n, width = points.shape
    n_lists = int(4 * np.sqrt(n))
    large = n * width * 2 > _SMALL
    kind = faiss.ScalarQuantizer.QT_8bit if large else faiss.ScalarQuantizer.QT_fp16
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, n_lists, kind, metric)
    index.cp.niter, index.cp.max_points_per_centroid = 6, _LISTED
    index.cp.min_points_per_centroid = 1
    sample = np.sort(np.random.default_rng(0).choice(n, min(n, n_lists * _LISTED), replace=False))
    index.train(unit_rows(points[sample]))
    for _, block in _blocks(points, max(1, _VALUES // 4 // width)):
        index.add(block)
    return index


def _tune(index: Any, points: Points, k: int) -> float:
    """Let the index search as many lists as the recall on a sample needs; returns that recall."""
    sample = np.sort(np.random.default_rng(1).choice(points.shape[0], _SAMPLE, replace=False))
    queries = unit_rows(points[sample])
    _, true = nearest(points, queries, k + 1)
    index.nprobe = 4
    while True:
        _, found = index.search(queries, k + 1)
        recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))
        if recall >= RECALL or index.nprobe * 8 > index.nlist:
            return recall
        index.nprobe *= 2


def _others(cosines: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Neighbours without the row itself: of k + 1, it or the last one is left out."""
    itself = rows == np.arange(len(rows))[:, None]
    itself[~itself.any(1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return {"cosines": cosines[~itself].reshape(shape), "rows": rows[~itself].reshape(shape)}


def _search(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from mmfeat.heads.knn import search_faiss, search_torch

    try:
        return search_faiss(queries, rows, k)
    except ImportError:
        return search_torch(queries, rows, k)


def _faiss() -> ModuleType | None:
    try:
        import faiss
    except Exception:  # a broken installation may raise anything
        return None
    return faiss


def _merged(
    cosines: np.ndarray, rows: np.ndarray, more: np.ndarray, more_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best of two lists of neighbours, as many as the first holds."""
    all_cosines, all_rows = np.concatenate([cosines, more], 1), np.concatenate([rows, more_rows], 1)
    best = np.argsort(-all_cosines, axis=1, kind="stable")[:, : cosines.shape[1]]
    return np.take_along_axis(all_cosines, best, 1), np.take_along_axis(all_rows, best, 1)


def _blocks(points: Points, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Normalised rows in blocks, each with the number of its first row."""
    for start in range(0, points.shape[0], size):
        yield start, unit_rows(points[start : start + size])


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 and contiguous; rows of zeros stay."""
    values = np.asarray(values, dtype=np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.where(length > 0, length, 1))
