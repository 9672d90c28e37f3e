"""How far a figure would move with other rows: percentile bootstrap (Efron, 1979), of one model or of two on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.metrics.scores import row_losses, samples_f1_rows

RESAMPLES = 1000
_BLOCK = 2**22  # numbers drawn at a time, so that memory stays bounded
_DRAWN = 2**24  # rows times draws at a time


def bootstrap_mean(values: np.ndarray, n: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `(N,)` values under resampling of rows.

    How often each distinct value is drawn is multinomial, and rows' F1 take few values: so a million rows cost no more
    than a thousand, and the order of the rows does not matter.

    Returns
    -------
    tuple of float
        Low and high end; both are the mean itself where all values are equal.

    Raises
    ------
    MmfeatError
        There is no value, or one is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise MmfeatError(f"{len(values)} rows to resample, of which {np.isfinite(values).sum()} have a finite value")
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    means, block = np.empty(n), max(1, _BLOCK // len(distinct))
    for start in range(0, n, block):
        stop = min(n, start + block)
        draws = rng.multinomial(len(values), counts / len(values), stop - start)  # (resamples, distinct)
        means[start:stop] = draws / len(values) @ distinct
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, n: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `a - b` over the same rows, and its 95 % interval.

    Raises
    ------
    MmfeatError
        The two are not of the same rows.
    """
    if len(a) != len(b):
        raise MmfeatError(f"a paired difference needs the same rows on both sides, found {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(difference.mean()), *bootstrap_mean(difference, n, seed)


class Outcome(NamedTuple):
    """What one model says of N rows and K classes.

    Attributes
    ----------
    decided : np.ndarray
        `(N, K)` of 0 and 1.
    logits : np.ndarray
        `(N, K)` float: their order is what average precision reads.
    calibrated : np.ndarray
        `(N, K)` float logits: what the loss reads.
    """

    decided: np.ndarray
    logits: np.ndarray
    calibrated: np.ndarray


METRIC_NAMES = ("samples_f1", "micro_f1", "macro_f1", "map", "accuracy_per_class", "label_set_accuracy", "loss")


def paired_bootstrap(
    labels: np.ndarray,
    first: Outcome,
    second: Outcome,
    n: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[str] = METRIC_NAMES,
) -> dict[str, tuple[float, float, float]]:
    """First minus second in some figures, with the 95 % interval of the difference when rows are drawn anew.

    Both see the same draws of rows, so that what is hard for both cancels. In each draw a class without a positive is
    left out of macro-F1 and mAP, as in :func:`mmfeat.metrics.scores`. The order of the rows decides the draws: give
    them in an order of their own.

    Returns
    -------
    dict of str to (float, float, float)
        By the names of :class:`mmfeat.metrics.Scores`: the difference, and the interval's low and high end.

    Raises
    ------
    MmfeatError
        Shapes differ, or there is no labelled row.
    """
    for one in first, second:
        if not all(array.shape == labels.shape for array in one):
            raise MmfeatError(f"a paired difference needs the same rows on both sides, found {[a.shape for a in one]}")
    rows = (labels >= 0).any(1)
    if not rows.any():
        raise MmfeatError("there is no labelled row to draw from")
    if not rows.all():
        labels = labels[rows]
        first, second = (Outcome(*(array[rows] for array in one)) for one in (first, second))
    sides = [Weighted(labels, one, ranked="map" in names) for one in (first, second)]
    everything = np.ones((1, len(labels)), np.float32)
    difference = _minus(names, *(side.figures(everything) for side in sides))
    draws = [_minus(names, *(side.figures(weights) for side in sides)) for weights in _draws(len(labels), n, seed)]
    found = {}
    for name in names:
        low, high = np.nanquantile(np.concatenate([draw[name] for draw in draws]), [0.025, 0.975])
        found[name] = float(difference[name][0]), float(low), float(high)
    return found


def bootstrap_metrics(
    labels: np.ndarray, outcome: Outcome, names: Sequence[str] = METRIC_NAMES, n: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of one model's figures when rows are drawn anew; order and rows as in :func:`paired_bootstrap`.

    Raises
    ------
    MmfeatError
        There is no labelled row.
    """
    rows = (labels >= 0).any(1)
    if not rows.any():
        raise MmfeatError("there is no labelled row to draw from")
    side = Weighted(labels[rows], Outcome(*(array[rows] for array in outcome)), ranked="map" in names)
    draws = [side.figures(weights) for weights in _draws(int(rows.sum()), n, seed)]
    ends = {name: np.nanquantile(np.concatenate([draw[name] for draw in draws]), [0.025, 0.975]) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _minus(names: Sequence[str], a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a[name] - b[name] for name in names}


def _draws(n_rows: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, `(R, N)` float32, some draws at a time."""
    rng = np.random.default_rng(seed)
    block = max(1, min(128, _DRAWN // n_rows))
    for start in range(0, n, block):
        drawn = [rng.integers(0, n_rows, n_rows) for _ in range(min(block, n - start))]
        yield np.stack([np.bincount(rows, minlength=n_rows).astype(np.float32) for rows in drawn])


class _Ranked:
    """One class's rows in groups by falling logit: from below one positive's logit down to that of the next.

    As sparse matrices `(G, N)` of ones: all rows of each group with a known label, and its positives, which are all at
    the group's lowest logit, where precision is read.
    """

    def __init__(self, yes: np.ndarray, known: np.ndarray, logits: np.ndarray) -> None:
        levels = np.unique(-logits[yes])
        self.known = _groups(np.flatnonzero(known), np.searchsorted(levels, -logits[known]), len(levels), len(yes))
        self.yes = _groups(np.flatnonzero(yes), np.searchsorted(levels, -logits[yes]), len(levels), len(yes))

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision `(R,)` with rows counted by weights `(N, R)`; NaN where no positive is drawn."""
        drawn = self.yes @ weights  # (G, R)
        hits, said, total = drawn.cumsum(0), (self.known @ weights).cumsum(0), drawn.sum(0)  # exact to 2^24
        precision = np.divide(hits, np.maximum(said, 1, out=said), dtype=np.float64)
        return np.einsum("gr,gr->r", precision, drawn) / np.where(total > 0, total, np.nan)


def _groups(rows: np.ndarray, group: np.ndarray, n_groups: int, n_rows: int) -> Any:
    """A sparse matrix `(G, N)` that has ones where a row is of a group; rows beyond the last group are of none."""
    from scipy.sparse import csr_matrix

    rows, group = rows[group < n_groups], group[group < n_groups]
    return csr_matrix((np.ones(len(rows), np.float32), (group, rows)), (n_groups, n_rows))


class Weighted:
    """Figures of one model when rows count more or less often than once; mAP, which takes longest, only where `ranked`."""

    def __init__(self, labels: np.ndarray, outcome: Outcome, ranked: bool = True) -> None:
        known, yes, said = labels >= 0, labels == 1, (outcome.decided == 1) & (labels >= 0)
        right = (said == yes) & known
        self.rows = np.stack(
            [
                samples_f1_rows(labels, outcome.decided),
                (right | ~known).all(1),
                row_losses(labels, outcome.calibrated),
                known.sum(1),
            ],
            axis=1,
        ).astype(np.float64)
        self.cells = [a.astype(np.float32) for a in (yes & said, said, yes, right, known)]
        classes = range(labels.shape[1]) if ranked else ()
        self.ranked = [_Ranked(yes[:, k], known[:, k], outcome.logits[:, k]) for k in classes]

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure `(R,)` with rows counted by weights `(R, N)` float32 of whole numbers."""
        f1, whole, loss, n_known = ((weights @ self.rows) / weights.sum(1, keepdims=True, dtype=np.float64)).T
        hit, said, yes, right, known = (
            (weights @ cells).astype(np.float64) for cells in self.cells
        )  # (R, K), exact to 2^24
        class_f1 = np.where(yes > 0, 2 * hit / np.maximum(said + yes, 1), np.nan)
        accuracy = np.where(known > 0, right / np.maximum(known, 1), np.nan)
        found = {}
        if self.ranked:
            by_row = np.ascontiguousarray(weights.T)
            found["map"] = _mean(np.stack([one.precision(by_row) for one in self.ranked], axis=1))
        return found | {
            "samples_f1": f1,
            "micro_f1": 2 * hit.sum(1) / np.maximum(said.sum(1) + yes.sum(1), 1),
            "macro_f1": _mean(class_f1),
            "accuracy_per_class": _mean(accuracy),
            "label_set_accuracy": whole,
            "loss": loss / n_known,
        }


def _mean(by_class: np.ndarray) -> np.ndarray:
    """Mean over the classes `(R, K)` that have a figure; 0 where none has."""
    kept = np.isfinite(by_class)
    return np.where(kept, by_class, 0).sum(1, dtype=np.float64) / np.maximum(kept.sum(1), 1)
