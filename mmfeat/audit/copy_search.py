"""Rows that are copies of one another: identical or near-duplicate images, or captions, as pairs and clusters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mmfeat.audit.checks import AuditInput
from mmfeat.audit.miniatures import turn_invariant
from mmfeat.audit.neighbours import Neighbours, Points, neighbours
from mmfeat.audit.registration import pixel_similarity

PIXELS = "pixels"  # the name of a threshold beside those of encoders
SIMILAR = 0.63  # similarity of the pixels of two copies, where none was calibrated
_WORDS = 0.7  # share of words that two captions have in common
_COSINE = 0.98  # from which two images without pixels to compare are near-duplicates
_TURNED, _CROPPED = 0.95, 0.9  # cosine of descriptors of turned pictures, and of crops, which embeddings find better
_NEAREST = 6  # rows that each row is compared with
_BLOCK = 8192


_FOUND: WeakKeyDictionary[AuditInput, dict[str, Any]] = WeakKeyDictionary()


def _once(find: Callable[[AuditInput], Any]) -> Callable[[AuditInput], Any]:
    """Decorator: several checks of one audit share a result."""

    @functools.wraps(find)
    def found(given: AuditInput) -> Any:
        kept = _FOUND.setdefault(given, {})
        if find.__name__ not in kept:
            kept[find.__name__] = find(given)
        return kept[find.__name__]

    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """Rows that are copies of one another.

    Attributes
    ----------
    cluster : np.ndarray
        `(N,)` int64: equal for the rows of a cluster; -1 for a row without a copy.
    similarity : np.ndarray
        `(N,)` float32 in [0, 1]: of each row and its most similar copy; 0 without one.
    nearest : np.ndarray
        `(N,)` int64: that copy; -1 without one.
    n_pairs : int
        Pairs of distinct images or captions that were compared.
    recall : float
        The share of neighbours that the search found; 1 if it was exact.
    """

    cluster: np.ndarray
    similarity: np.ndarray
    nearest: np.ndarray
    n_pairs: int = 0
    recall: float = 1.0

    def clusters(self) -> list[np.ndarray]:
        """The rows of each cluster, in order of their first rows."""
        rows = np.flatnonzero(self.cluster >= 0)
        if not len(rows):
            return []
        rows = rows[np.argsort(self.cluster[rows], kind="stable")]
        found = np.split(rows, np.flatnonzero(np.diff(self.cluster[rows])) + 1)
        return sorted(found, key=lambda cluster: int(cluster[0]))


@_once
def picture_copies(given: AuditInput) -> Copies | None:
    """Rows whose images are copies; None without any image.

    Candidates are the nearest rows by each image encoder, and by a descriptor that turning and mirroring do not change.
    Their miniatures are then compared. Where there are no miniatures, the cosine alone decides.
    """
    has, keys = given.has.get("image"), given.keys.get("image")
    if has is None or keys is None or not (present := keys.any(1)).any():
        return None
    rows, twins = _distinct(keys, np.flatnonzero(present))
    return _copies(given.n_samples, twins, list(_near_pictures(given, rows)))


@_once
def caption_copies(given: AuditInput) -> Copies | None:
    """Rows whose captions are equal but for case and punctuation, or near-duplicates by words and embedding; None without captions."""
    keys = given.caption_keys
    if keys is None or not (present := keys.any(1)).any():
        return None
    rows, twins = _distinct(keys, np.flatnonzero(present))
    return _copies(given.n_samples, twins, list(_near_captions(given, rows)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Near:
    """Pairs of rows that one search found to be near-duplicates."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    n_pairs: int
    recall: float


def _distinct(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, _Near]:
    """The first row of each distinct key, and the other rows paired with it."""
    _, first, at = np.unique(
        np.ascontiguousarray(keys[rows]).view(f"V{keys.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    others = first[at] != np.arange(len(rows))
    pairs = rows[first[at]][others], rows[others]
    ones = np.ones(int(others.sum()), np.float32)
    return np.sort(rows[first]), _Near(first=pairs[0], second=pairs[1], similarity=ones, n_pairs=0, recall=1.0)


def _near_pictures(given: AuditInput, rows: np.ndarray) -> Iterator[_Near]:
    """Near-duplicates among distinct images, by each way to find candidates."""
    threshold, pictures = given.thresholds.get(PIXELS, SIMILAR), given.pictures
    for name, one in given.embeddings.items():
        here = rows[one.present[rows]] if one.modality == "image" else rows[:0]
        if len(here) < 2:
            continue
        first, second, cosines, recall = _nearest_pairs(given, name, here, given.thresholds.get(name, 0.0))
        similarity = np.where(cosines >= _COSINE, cosines, 0)
        if pictures is not None:
            pixels = pictures.known[first] & pictures.known[second]
            similarity[pixels] = pixel_similarity(pictures.miniature, first[pixels], second[pixels])
        yield _near(first, second, similarity, similarity >= threshold, recall=recall)
    here = rows[:0] if pictures is None else rows[pictures.known[rows]]
    if len(here) > 1:
        least = _TURNED if any(one.modality == "image" for one in given.embeddings.values()) else _CROPPED
        blocks = [turn_invariant(pictures.miniature[here[at : at + _BLOCK]]) for at in range(0, len(here), _BLOCK)]
        first, second, _, recall = _candidates(np.concatenate(blocks), here, least)
        similarity = pixel_similarity(pictures.miniature, first, second)
        yield _near(first, second, similarity, similarity >= threshold, recall=recall)


def _near_captions(given: AuditInput, rows: np.ndarray) -> Iterator[_Near]:
    """Near-duplicates among distinct captions: of similar embeddings and mostly the same words."""
    for name, one in given.embeddings.items():
        here = rows[one.present[rows]] if one.modality == "text" else rows[:0]
        if len(here) < 2 or given.caption_words is None:
            continue
        first, second, _, recall = _nearest_pairs(given, name, here, given.thresholds.get(name, 0.0))
        shared = (given.caption_words[first] == given.caption_words[second]).mean(1, dtype=np.float32)
        yield _near(first, second, shared, shared >= _WORDS, recall=recall)


def _near(first: np.ndarray, second: np.ndarray, similarity: np.ndarray, close: np.ndarray, *, recall: float) -> _Near:
    return _Near(
        first=first[close],
        second=second[close],
        similarity=np.clip(similarity[close], 0, 1),
        n_pairs=len(first),
        recall=recall,
    )


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray, float]


def _nearest_pairs(given: AuditInput, name: str, rows: np.ndarray, least: float) -> Pairs:
    """As :func:`_candidates`, by the embeddings of an encoder; the search is that of all checks."""
    nearest = given.nearest(name)
    first, second, cosines, recall = _pairs(nearest.found, nearest.rows, least)
    own = np.isin(first, rows) & np.isin(second, rows)
    return first[own], second[own], cosines[own], recall


def _candidates(points: Points, rows: np.ndarray, least: float) -> Pairs:
    """Pairs of rows `(P,)` of which one is among the nearest of the other, with a cosine of at least `least`; and the recall."""
    return _pairs(neighbours(points, min(_NEAREST, len(rows) - 1)), rows, least)


def _pairs(found: Neighbours, rows: np.ndarray, least: float) -> Pairs:
    nearest, cosines = found.rows[:, :_NEAREST], found.cosines[:, :_NEAREST]
    at, column = np.nonzero((nearest >= 0) & (cosines >= least))
    other = nearest[at, column]
    low, high = np.minimum(at, other), np.maximum(at, other)
    _, first = np.unique(low * len(rows) + high, return_index=True)
    return rows[low[first]], rows[high[first]], cosines[at, column][first], found.recall


def _copies(n: int, twins: _Near, near: Sequence[_Near]) -> Copies:
    """Clusters of pairs, and the most similar copy of each row."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    both = [twins, *near]
    first, second = (np.concatenate([getattr(one, side) for one in both]) for side in ("first", "second"))
    values = np.concatenate([one.similarity for one in both])
    ones = np.ones(len(first), dtype=bool)
    _, numbers = connected_components(coo_matrix((ones, (first, second)), shape=(n, n)), directed=False)
    cluster = np.full(n, -1, dtype=np.int64)
    rows = np.unique(np.concatenate([first, second]))
    cluster[rows] = numbers[rows]
    similarity, nearest = np.zeros(n, np.float32), np.full(n, -1, dtype=np.int64)
    order = np.argsort(values, kind="stable")  # the most similar one is written last
    for here, there in ((first, second), (second, first)):
        better = order[values[order] > similarity[here[order]]]
        nearest[here[better]], similarity[here[better]] = there[better], values[better]
    return Copies(
        cluster=cluster,
        similarity=similarity,
        nearest=nearest,
        n_pairs=sum(one.n_pairs for one in near),
        recall=min((one.recall for one in near), default=1.0),
    )
