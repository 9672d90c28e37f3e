"""Rank rows by how much is gained by labelling them, in bits, and skip near-duplicates.

The worth of a row is the uncertainty of the fused model of each class (Lewis and Gale, 1994) plus the disagreement of the
unimodal predictions (the Jensen-Shannon divergence of a committee: McCallum and Nigam, 1998). Rows are then selected one
after another; a row is worth less the nearer it is to a row selected before (Settles and Craven, 2008), so that of two
copies of an image one is selected.
"""

from __future__ import annotations

import heapq

import numpy as np

NEAR = 0.05  # of the usual squared distance between two rows: nearer rows are duplicates
_TINY = 1e-7


def uncertainty(probs: np.ndarray, threshold: float | np.ndarray = 0.5) -> np.ndarray:
    """Uncertainty of each class of a row, in bits: 1 at the decision threshold, 0 far from it.

    Parameters
    ----------
    probs : np.ndarray
        `(n, K)` in [0, 1].
    threshold : float, (K,), (n, 1) or (n, K) array
        Between negative and positive. Distances from it are measured in log odds.

    Returns
    -------
    np.ndarray
        `(n, K)` float64 in [0, 1].
    """
    at = np.asarray(threshold, dtype=np.float64)
    return entropy(1 / (1 + np.exp(_log_odds(at) - _log_odds(probs))))


def disagreement(unimodal: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Disagreement of encoders about each class, in bits: 0 where they agree, 1 where they are certain of opposite labels.

    Parameters
    ----------
    unimodal : np.ndarray
        `(M, n, K)` probabilities by each encoder alone; M may be 0.
    known : np.ndarray
        `(M, n)` bool: whether the row has the encoder's modality. With one encoder the disagreement is 0.

    Returns
    -------
    np.ndarray
        `(n, K)` float64 in [0, 1].
    """
    weights = (
        known[:, :, None] / np.maximum(known.sum(0), 1)[:, None]
    )  # (M, n, 1); they sum to 1 if any encoder is known
    each = np.where(known[:, :, None], unimodal, 0.0).astype(np.float64)
    return np.maximum(entropy((weights * each).sum(0)) - (weights * entropy(each)).sum(0), 0)


def contradiction(probs: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much a model contradicts the labels of rows: its probability that a label is wrong.

    Parameters
    ----------
    probs, predicted : np.ndarray
        `(n, K)`, and the predicted labels: 0 and 1.
    labels : np.ndarray
        `(n, K)` int8 of 1, 0 and -1. An unknown label is not contradicted.

    Returns
    -------
    np.ndarray
        `(n, K)` float64 in [0, 1], 0 where the predicted label is the given one.
    """
    other = (labels >= 0) & (predicted != labels)
    return np.where(other, np.maximum(np.abs(probs.astype(np.float64) - labels), _TINY), 0)


def about_contradiction(name: str, is_given: bool, prob: float) -> str:
    """A label that a model contradicts, in words: `dog is not given, the model says 0.93`."""
    return f"{name} {'is given' if is_given else 'is not given'}, the model says {prob:.2f}"


def shortlist(worth: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """The n rows of highest worth `(N,)`, the highest first; rows of no worth are left out.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)`, one for each id: ties are broken by them, so that the order of the rows does not matter.
    """
    order = np.lexsort((numbers, -worth))[:n]
    return order[worth[order] > 0]


def spread(worth: np.ndarray, points: np.ndarray, n: int) -> np.ndarray:
    """Select up to n rows, each time the row of highest worth; worth is reduced near selected rows.

    The first m of n are the selection for m. There are fewer than n if all other rows are duplicates.

    Parameters
    ----------
    worth : np.ndarray
        `(P,)` of a shortlist; of ties the first is selected.
    points : np.ndarray
        `(P, D)` float32. Squared distances count, relative to the usual one between two rows.

    Returns
    -------
    np.ndarray
        Positions in the shortlist, in the order of selection.
    """
    points = points - points.mean(0) if len(points) else points  # numerical precision: distances do not change
    squares = np.einsum("pd,pd->p", points, points)
    usual = max(2 * float(squares.mean()) if len(squares) else 0.0, 1e-12)
    selected = np.zeros((min(n, len(points)), points.shape[1]), points.dtype)
    selected_squares, taken = np.zeros(len(selected), points.dtype), []
    heap = [(-w, row, 1.0, 0) for row, w in enumerate(worth.tolist()) if w > 0]
    heapq.heapify(heap)
    while heap and len(taken) < n:  # worth only decreases, so a row is compared again only when it comes first
        _, row, novelty, compared = heapq.heappop(heap)
        m = len(taken)
        if compared == m:
            selected[m], selected_squares[m] = points[row], squares[row]
            taken.append(row)
            continue
        distances = selected_squares[compared:m] + squares[row] - 2 * (selected[compared:m] @ points[row])
        novelty = min(novelty, float(distances.min()) / usual)
        if novelty > NEAR:
            heapq.heappush(heap, (-float(worth[row]) * novelty, row, novelty, m))
    return np.array(taken, dtype=np.int64)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Entropy of a binary label with some probability, in bits: [0, 1]."""
    p = np.clip(probs.astype(np.float64), 0, 1)
    q = 1 - p
    return -(p * np.log2(np.maximum(p, 1e-300)) + q * np.log2(np.maximum(q, 1e-300)))


def _log_odds(probs: np.ndarray) -> np.ndarray:
    p = np.clip(probs.astype(np.float64), _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p)
