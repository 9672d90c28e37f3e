"""Finds copies of pictures by their miniatures: descriptors that turning and mirroring do not change, and coarse matches.

A copy may be re-encoded, resized, turned or mirrored, and one of the two may be a crop of the other. The coarse match of two
miniatures compares each one with 16 windows of the other, in all 8 symmetries of the square, at 8 x 8 pixels. Registration
(:mod:`mmfeat.audit.registration`) starts from there.
"""

from __future__ import annotations

import itertools

import numpy as np

SIDE = 32  # pixels of a miniature
_CELLS = 8  # pixels a side of what the coarse match compares
_WINDOW = 0.85 * SIDE  # side of a window
_PLACES = (None, 0.0, (SIDE - _WINDOW) / 2, SIDE - _WINDOW)  # where a window begins; None: the whole side
_WINDOWS = (
    (0, 0),
    *itertools.product((1, 2, 3), (1, 2, 3)),
    *((0, i) for i in (1, 2, 3)),
    *((i, 0) for i in (1, 2, 3)),
)
SYMMETRIES = tuple(itertools.product((False, True), repeat=3))  # transpose, flip rows, flip columns
_FLIPPED = (0, 3, 2, 1)  # the place of a window in a mirrored picture
_NOISE = 8.0  # grey levels: a window of less contrast than this matches nothing well
_FREQUENCIES = 10


def grey(miniatures: np.ndarray) -> np.ndarray:
    """Luminance of miniatures `(n, 32, 32, 3)` uint8: `(n, 32, 32)` float32."""
    return miniatures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def turned(pictures: np.ndarray, symmetry: tuple[bool, bool, bool]) -> np.ndarray:
    """Pictures `(..., h, w)`, transposed, then with rows and columns flipped, as the symmetry says."""
    transpose, rows, columns = symmetry
    pictures = pictures.swapaxes(-1, -2) if transpose else pictures
    return pictures[..., :: -1 if rows else 1, :: -1 if columns else 1]


def turn_invariant(miniatures: np.ndarray) -> np.ndarray:
    """Descriptors `(n, 99)` float32 that are equal for a picture and its turned and mirrored copies.

    Turning and mirroring change only the signs of a picture's cosine transform, or transpose it.
    """
    basis = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(_FREQUENCIES)[:, None] / SIDE).astype(np.float32)
    waves = np.abs(basis @ grey(miniatures) @ basis.T)  # (n, u, v)
    u, v = np.triu_indices(_FREQUENCIES)
    both, other = waves[:, u, v], waves[:, v, u]
    found = np.concatenate([(both + other)[:, 1:], np.abs(both - other)[:, u != v]], axis=1)
    return np.sqrt(found)  # otherwise the lowest frequencies decide alone


def window_views(pictures: np.ndarray) -> np.ndarray:
    """The 16 windows of grey pictures `(n, 32, 32)`, each at 8 x 8 pixels: `(n, 16, 8, 8)`."""
    return np.stack([_SCALED[i] @ pictures @ _SCALED[j].T for i, j in _WINDOWS], axis=1)


def coarse_match(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best match of P pairs of pictures, of which only the windows are given.

    Parameters
    ----------
    first, second : np.ndarray
        `(P, 16, 8, 8)`, by :func:`window_views`.

    Returns
    -------
    tuple of np.ndarray
        Correlations `(P,)`; numbers of the symmetries `(P,)` that turn the second picture as the first; and where the pixels
        of the first lie in the turned second one, `(P, 4)` float32, as :func:`mmfeat.audit.registration.register` has it.
    """
    ours = _contrast(first)  # (P, 16, 64)
    theirs = np.stack(
        [_contrast(turned(second[:, order], one)) for order, one in zip(_REORDERED, SYMMETRIES, strict=True)], axis=2
    )  # (P, 16, 8, 64)
    inside = np.einsum("pwd,pgd->pwg", ours, theirs[:, 0], optimize=True)  # a window of the first, all of the second
    around = np.einsum("pd,pwgd->pwg", ours[:, 0], theirs, optimize=True)  # all of the first, a window of the second
    both = np.stack([inside, around], axis=1).reshape(len(first), -1)
    best = both.argmax(1)
    side, rest = np.divmod(best, len(_WINDOWS) * len(SYMMETRIES))
    window, symmetry = np.divmod(rest, len(SYMMETRIES))
    return both[np.arange(len(first)), best], symmetry, _STARTS[side, window]


def _contrast(views: np.ndarray) -> np.ndarray:
    """Views `(..., 8, 8)` as vectors `(..., 64)` of mean 0 and length at most 1."""
    flat = views.reshape(*views.shape[:-2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), _NOISE)


def _scaling(start: float | None) -> np.ndarray:
    """The mean of a side's pixels in each of 8 cells of a window, as a matrix `(8, 32)`."""
    size = SIDE if start is None else _WINDOW
    edges = (start or 0.0) + size * np.arange(_CELLS + 1) / _CELLS
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(0) / (size / _CELLS)).astype(np.float32)


def _reordered(symmetry: tuple[bool, bool, bool]) -> list[int]:
    """For each window of a turned picture, the window of the picture that becomes it."""
    transpose, rows, columns = symmetry
    places = ((_FLIPPED[i] if rows else i, _FLIPPED[j] if columns else j) for i, j in _WINDOWS)
    return [_WINDOWS.index((j, i) if transpose else (i, j)) for i, j in places]


def _starts() -> np.ndarray:
    """The position `(2, 16, 4)` of each window: of the first picture in the second, and of the second in the first."""
    starts = np.zeros((2, len(_WINDOWS), 4), np.float32)
    share = _WINDOW / SIDE
    for number, (i, j) in enumerate(_WINDOWS):
        for at, place in ((0, _PLACES[j]), (2, _PLACES[i])):
            if place is not None:
                shift = place + (_WINDOW - SIDE) / 2
                starts[:, number, at : at + 2] = (-np.log(share), -shift / share), (np.log(share), shift)
    return starts


_SCALED = [_scaling(place) for place in _PLACES]
_REORDERED = [_reordered(symmetry) for symmetry in SYMMETRIES]
_STARTS = _starts()
