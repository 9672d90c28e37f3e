"""Registration: how well two miniatures agree once one of them is turned, scaled and shifted onto the other.

The position is found by Gauss-Newton steps from the coarse match, first on blurred pictures. The similarity compares edges
rather than brightness, and strong edges count little more than weak ones: two horizons look alike, and what is above and
below them does not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmfeat.audit.miniatures import SIDE, SYMMETRIES, coarse_match, grey, turned, window_views
from mmfeat.common.machine import usable_cores

COARSE = 0.75  # correlation of the coarse match from which pictures are registered
_PAIRS = 1024  # at a time: bounds memory
_STEPS = ((3, 4), (0, 4))  # times that the pictures are blurred, and steps
_CENTRE = (SIDE - 1) / 2
_PIXELS = np.arange(SIDE, dtype=np.float32)
_FROM_CENTRE = _PIXELS - _CENTRE
_LARGEST_STEP = np.array([0.08, 1.5, 0.08, 1.5], np.float32)
_FARTHEST = np.array([0.35, 6.0, 0.35, 6.0], np.float32)
_DAMPING = np.diag([50.0, 1.0, 50.0, 1.0]).astype(np.float32)
_NOISE = 4.0  # variance in grey levels that says nothing
_STRONG = 8.0  # slope in grey levels a pixel that counts half as much as the steepest edge
_EDGE_NOISE = 0.008  # square of a slope, on that scale from 0 to 1


def pixel_similarity(miniatures: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How likely the pictures of each pair are copies of one another, `(P,)` float32 in [0, 1].

    Parameters
    ----------
    miniatures : array-like
        `(N, 32, 32, 3)` uint8; indexed by rows.
    first, second : np.ndarray
        `(P,)` rows. Pairs whose coarse match is below :data:`COARSE` have similarity 0.
    """
    order = np.lexsort((second, first))  # a block of pairs reads few miniatures
    similarity = np.zeros(len(first), np.float32)

    def compare(some: np.ndarray) -> None:
        similarity[some] = _similarity(miniatures, first[some], second[some])

    with ThreadPoolExecutor(usable_cores()) as pool:
        for done in [pool.submit(compare, order[at : at + _PAIRS]) for at in range(0, len(order), _PAIRS)]:
            done.result()
    return similarity


def _similarity(miniatures: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    rows, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    pixels = np.asarray(miniatures[rows])
    greys = grey(pixels)
    views = window_views(greys)
    a, b = np.split(at, 2)
    match, symmetry, position = coarse_match(views[a], views[b])
    found = np.zeros(len(a), np.float32)
    near = np.flatnonzero(match >= COARSE)
    if not len(near):
        return found
    a, b, symmetry = a[near], b[near], symmetry[near]
    pairs = list(zip(b.tolist(), symmetry.tolist(), strict=True))
    position = register(greys[a], np.stack([turned(greys[row], SYMMETRIES[one]) for row, one in pairs]), position[near])
    colours = pixels.transpose(0, 3, 1, 2).astype(np.float32)  # (n, 3, 32, 32)
    theirs = np.stack([turned(colours[row], SYMMETRIES[one]) for row, one in pairs])
    found[near] = edge_similarity(colours[a], theirs, position)
    return found


def register(first: np.ndarray, second: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Improve the positions of P pairs of grey pictures `(P, 32, 32)`.

    Parameters
    ----------
    position : np.ndarray
        `(P, 4)` float32: of columns the logarithm of the scale and the shift in pixels, then of rows. Pixel x of the first
        picture lies at `(x - 15.5) * exp(scale) + 15.5 + shift` in the second.
    """
    for times, n_steps in _STEPS:
        ours, theirs = _blurred(first, times), _blurred(second, times)
        for _ in range(n_steps):
            position = position + _step(ours, theirs, position)
            position = position.clip(-_FARTHEST, _FARTHEST)
    return position


def edge_similarity(first: np.ndarray, second: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Correlation `(P,)` float32 in [0, 1] of the edges of colour pictures `(P, 3, 32, 32)` where they overlap."""
    warped, inside = _warped(second, position)
    inner = inside[:, 1:-1, 1:-1]  # every neighbour of a pixel must be inside
    inner = inner * inside[:, 2:, 1:-1] * inside[:, :-2, 1:-1] * inside[:, 1:-1, 2:] * inside[:, 1:-1, :-2]
    mask = np.pad(inner, ((0, 0), (1, 1), (1, 1)))[:, None]
    (a, b), (c, d) = _evened(*_edges(first)), _evened(*_edges(warped))
    noise = _EDGE_NOISE * first.shape[1] * mask.sum((1, 2, 3))
    sums = [((x * y + z * w) * mask).sum((1, 2, 3)) for x, y, z, w in ((a, c, b, d), (a, a, b, b), (c, c, d, d))]
    return (sums[0] / np.sqrt((sums[1] + noise) * (sums[2] + noise)).clip(1e-6)).clip(0, 1).astype(np.float32)


def _step(first: np.ndarray, second: np.ndarray, position: np.ndarray) -> np.ndarray:
    """One damped Gauss-Newton step `(P, 4)`."""
    warped, inside = _warped(second[:, None], position)
    ours, theirs = _normal(first, inside), _normal(warped[:, 0], inside)
    across, down = (edge * inside for edge in _edges(theirs))
    slopes = np.stack([across * _FROM_CENTRE, across, down * _FROM_CENTRE[:, None], down], axis=-1)
    slopes = slopes.reshape(len(first), -1, 4)
    rest = ((ours - theirs) * inside).reshape(len(first), -1, 1)
    curvature = slopes.transpose(0, 2, 1) @ slopes + _DAMPING
    step = np.linalg.solve(curvature, slopes.transpose(0, 2, 1) @ rest)[:, :, 0]
    return step.clip(-_LARGEST_STEP, _LARGEST_STEP).astype(np.float32)


def _warped(pictures: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `(P, C, 32, 32)` at the pixels of the other one, by linear interpolation, and which are inside, `(P, 32, 32)`."""
    x, y = (_FROM_CENTRE * np.exp(position[:, [at]]) + _CENTRE + position[:, [at + 1]] for at in (0, 2))
    columns, rows = (np.clip(1 - np.abs(at[:, :, None] - _PIXELS), 0, None) for at in (x, y))  # (P, 32, 32)
    inside = [(at >= -0.25) & (at <= SIDE - 0.75) for at in (x, y)]
    mask = (inside[1][:, :, None] & inside[0][:, None, :]).astype(np.float32)
    return rows[:, None] @ pictures @ columns.transpose(0, 2, 1)[:, None], mask


def _normal(pictures: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Pictures of mean 0 and variance 1 inside, 0 outside."""
    n = inside.sum((1, 2), keepdims=True).clip(1)
    centred = (pictures - (pictures * inside).sum((1, 2), keepdims=True) / n) * inside
    return centred / np.sqrt((centred**2).sum((1, 2), keepdims=True) / n + _NOISE)


def _edges(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes across and down, `(..., 32, 32)` each; 0 at the border."""
    across, down = np.zeros_like(pictures), np.zeros_like(pictures)
    across[..., 1:-1] = (pictures[..., 2:] - pictures[..., :-2]) / 2
    down[..., 1:-1, :] = (pictures[..., 2:, :] - pictures[..., :-2, :]) / 2
    return across, down


def _evened(across: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes `(P, 3, 32, 32)` scaled so that their length, over all colours, grows from 0 to 1."""
    steepness = np.sqrt((across**2 + down**2).mean(1, keepdims=True))
    return across / (_STRONG + steepness), down / (_STRONG + steepness)


def _blurred(pictures: np.ndarray, times: int) -> np.ndarray:
    """Pictures blurred by (1, 2, 1) / 4 both ways, some times."""
    for _ in range(times):
        for axis in (1, 2):
            wide = np.pad(pictures, [(1, 1) if one == axis else (0, 0) for one in range(3)], mode="edge")
            ends = [np.take(wide, range(start, start + SIDE), axis=axis) for start in (0, 1, 2)]
            pictures = (ends[0] + 2 * ends[1] + ends[2]) / 4
    return pictures
