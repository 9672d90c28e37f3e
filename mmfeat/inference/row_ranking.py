"""Which rows are most worth a person's look: what an answer would settle, in bits, and no two rows alike.

A row is worth what its answer settles: how uncertain the fused model is of each class (Lewis and Gale, 1994), and how
far the encoders' own opinions are apart (the Jensen-Shannon divergence of a committee: McCallum and Nigam, 1998). Rows
are then taken one after another, each the less the more it is like one that was taken before (Settles and Craven,
2008), so that a picture that lies there twice is asked for once.
"""

from __future__ import annotations

import heapq

import numpy as np

NEAR = 0.05  # of the usual squared distance between two rows: what is nearer asks the same thing again
_TINY = 1e-7


def uncertainty(probs: np.ndarray, threshold: float | np.ndarray = 0.5) -> np.ndarray:
    """Bits that each class of a row is open by: 1 at its decision threshold, 0 far from it.

    Parameters
    ----------
    probs : np.ndarray
        `(n, K)` in [0, 1].
    threshold : float, (K,), (n, 1) or (n, K) array
        Between no and yes. Distances from it are those of the log odds.

    Returns
    -------
    np.ndarray
        `(n, K)` float64 in [0, 1].
    """
    at = np.asarray(threshold, dtype=np.float64)
    return entropy(1 / (1 + np.exp(_log_odds(at) - _log_odds(probs))))


def disagreement(opinions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Bits by which encoders are of different opinion of each class: 0 where they agree, 1 where one is sure of each answer.

    Parameters
    ----------
    opinions : np.ndarray
        `(M, n, K)` probabilities by each encoder alone; M may be 0.
    known : np.ndarray
        `(M, n)` bool: whether the row has what the encoder reads. One opinion alone disagrees with none.

    Returns
    -------
    np.ndarray
        `(n, K)` float64 in [0, 1].
    """
    weights = known[:, :, None] / np.maximum(known.sum(0), 1)[:, None]  # (M, n, 1), of sum 1 where anything is known
    each = np.where(known[:, :, None], opinions, 0.0).astype(np.float64)
    return np.maximum(entropy((weights * each).sum(0)) - (weights * entropy(each)).sum(0), 0)


def contradiction(probs: np.ndarray, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much a model contradicts the labels that rows were given: its probability that a label is wrong.

    Parameters
    ----------
    probs, decided : np.ndarray
        `(n, K)`, and the labels that they became: 0 and 1.
    labels : np.ndarray
        `(n, K)` int8 of 1, 0 and -1. Of what is not known nothing is contradicted.

    Returns
    -------
    np.ndarray
        `(n, K)` float64 in [0, 1], 0 where the model decides as the label says.
    """
    other = (labels >= 0) & (decided != labels)
    return np.where(other, np.maximum(np.abs(probs.astype(np.float64) - labels), _TINY), 0)


def shortlist(worth: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """The n rows of highest worth `(N,)`, the highest first; those of none are left out.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)`, one for each id: they decide between equals, so that the rows' order does not matter.
    """
    order = np.lexsort((numbers, -worth))[:n]
    return order[worth[order] > 0]


def spread(worth: np.ndarray, points: np.ndarray, n: int) -> np.ndarray:
    """Up to n rows, one after another: the row of highest worth, less as it is near to one that was taken.

    The first m of n are those that were taken if m had been asked for. Fewer are given where all others are like them.

    Parameters
    ----------
    worth : np.ndarray
        `(P,)` of a shortlist, in an order that decides between equals.
    points : np.ndarray
        `(P, D)` float32: where the rows lie. Squared distances count, as a share of the usual one between two of them.

    Returns
    -------
    np.ndarray
        Row numbers in the shortlist, in the order in which they were taken.
    """
    points = points - points.mean(0) if len(points) else points  # digits: distances stay as they are
    squares = np.einsum("pd,pd->p", points, points)
    usual = max(2 * float(squares.mean()) if len(squares) else 0.0, 1e-12)
    there = np.zeros((min(n, len(points)), points.shape[1]), points.dtype)  # the rows that were taken
    there_squares, taken = np.zeros(len(there), points.dtype), []
    heap = [(-w, row, 1.0, 0) for row, w in enumerate(worth.tolist()) if w > 0]
    heapq.heapify(heap)
    while heap and len(taken) < n:  # a row is only worth less, the more are taken: looked at again when it comes first
        _, row, novelty, compared = heapq.heappop(heap)
        m = len(taken)
        if compared == m:
            there[m], there_squares[m] = points[row], squares[row]
            taken.append(row)
            continue
        away = there_squares[compared:m] + squares[row] - 2 * (there[compared:m] @ points[row])
        novelty = min(novelty, float(away.min()) / usual)
        if novelty > NEAR:
            heapq.heappush(heap, (-float(worth[row]) * novelty, row, novelty, m))
    return np.array(taken, dtype=np.int64)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Bits of a yes or no of some probability, in [0, 1]."""
    p = np.clip(probs.astype(np.float64), 0, 1)
    q = 1 - p
    return -(p * np.log2(np.maximum(p, 1e-300)) + q * np.log2(np.maximum(q, 1e-300)))


def _log_odds(probs: np.ndarray) -> np.ndarray:
    p = np.clip(probs.astype(np.float64), _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p)
