"""Confidence intervals by the percentile bootstrap (Efron, 1979): of one model's metrics, or of the difference of two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import counted
from mmfeat.metrics.scoring import row_losses, samples_f1_rows

RESAMPLES = 1000
_BLOCK = 2**22  # numbers drawn at a time: bounds memory
_DRAWN = 2**24  # rows x draws at a time


def bootstrap_mean(
    values: np.ndarray, n: int = RESAMPLES, seed: int = 0, *, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `(N,)` values.

    Counts of distinct values are drawn from a multinomial distribution. F1 takes few distinct values, so a million rows
    cost no more than a thousand, and the order of the rows does not matter.

    Returns
    -------
    tuple of float
        Lower and upper end; both equal the mean if all values are equal.

    Raises
    ------
    MmfeatError
        There are no values, or one of them is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise MmfeatError(
            f"the bootstrap needs finite values, found {np.isfinite(values).sum()} among {counted(len(values), 'row')}"
        )
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    means, block = np.empty(n), max(1, _BLOCK // len(distinct))
    for start in range(0, n, block):
        stop = min(n, start + block)
        draws = rng.multinomial(len(values), counts / len(values), stop - start)  # (resamples, distinct)
        means[start:stop] = draws / len(values) @ distinct
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, n: int = RESAMPLES, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `a - b` over the same rows, and the ends of its 95 % interval.

    Raises
    ------
    MmfeatError
        The two arrays differ in length.
    """
    if len(a) != len(b):
        raise MmfeatError(f"a paired difference needs the same rows on both sides, found {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(difference.mean()), *bootstrap_mean(difference, n, seed)


class Outcome(NamedTuple):
    """One model's predictions for N rows and K classes.

    Attributes
    ----------
    predicted : np.ndarray
        `(N, K)` predicted labels, 0 or 1.
    logits : np.ndarray
        `(N, K)` float; average precision depends on their order.
    calibrated : np.ndarray
        `(N, K)` float, logits divided by the temperature; the loss is computed from them.
    """

    predicted: np.ndarray
    logits: np.ndarray
    calibrated: np.ndarray


METRIC_NAMES = ("samples_f1", "micro_f1", "macro_f1", "map", "accuracy_per_class", "label_set_accuracy", "loss")


def paired_bootstrap(
    labels: np.ndarray,
    first: Outcome,
    second: Outcome,
    *,
    n: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[str] = METRIC_NAMES,
) -> dict[str, tuple[float, float, float]]:
    """Difference (first minus second) of some metrics, with its 95 % bootstrap interval.

    Both models are evaluated on the same resampled rows, so that rows that are hard for both cancel. In each resample,
    classes without a positive are left out of macro-F1 and mAP, as in :func:`mmfeat.metrics.scores`. The resamples
    depend on the order of the rows: pass the rows in a fixed order.

    Returns
    -------
    dict of str to (float, float, float)
        For each metric (a field of :class:`mmfeat.metrics.Scores`): the difference, and the ends of its interval.

    Raises
    ------
    MmfeatError
        Shapes differ, or there is no labelled row.
    """
    for one in first, second:
        if not all(array.shape == labels.shape for array in one):
            raise MmfeatError(f"a paired difference needs the same rows on both sides, found {[a.shape for a in one]}")
    sides = [_labelled_only(labels, one, names) for one in (first, second)]
    everything = np.ones((1, sides[0].n_rows), np.float32)
    difference = _minus(names, *(side.metrics(everything) for side in sides))
    draws = [_minus(names, *(side.metrics(weights) for side in sides)) for weights in _draws(sides[0].n_rows, n, seed)]
    return {name: (float(difference[name][0]), *ends) for name, ends in _intervals(draws, names).items()}


def subset_difference(
    labels: np.ndarray,
    outcome: Outcome,
    kept: np.ndarray,
    *,
    n: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[str] = METRIC_NAMES,
) -> dict[str, tuple[float, float, float]]:
    """How one model's metrics on some rows differ from those on all rows, with the 95 % bootstrap interval.

    Both are computed from the same resampled rows, so that the interval is that of the paired difference. The order of
    the rows matters as in :func:`paired_bootstrap`.

    Parameters
    ----------
    kept : np.ndarray
        `(N,)` bool: the rows that are kept.

    Returns
    -------
    dict of str to (float, float, float)
        For each metric: its value on the kept rows minus that on all, and the ends of the interval.

    Raises
    ------
    MmfeatError
        No row with a known label is kept.
    """
    labelled = (labels >= 0).any(1)
    side, some = _labelled_only(labels, outcome, names), kept[labelled].astype(np.float32)
    if not some.any():
        raise MmfeatError("no row with a known label is kept")
    everything = np.ones((1, side.n_rows), np.float32)
    difference = _minus(names, side.metrics(everything * some), side.metrics(everything))
    draws = [
        _minus(names, side.metrics(weights * some), side.metrics(weights))
        for weights in _draws(side.n_rows, n, seed)
        if (weights @ some).all()
    ]
    return {name: (float(difference[name][0]), *ends) for name, ends in _intervals(draws, names).items()}


def bootstrap_metrics(
    labels: np.ndarray, outcome: Outcome, names: Sequence[str] = METRIC_NAMES, *, n: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of one model's metrics; rows and their order matter as in :func:`paired_bootstrap`.

    Raises
    ------
    MmfeatError
        There is no labelled row.
    """
    side = _labelled_only(labels, outcome, names)
    return _intervals([side.metrics(weights) for weights in _draws(side.n_rows, n, seed)], names)


def _labelled_only(labels: np.ndarray, outcome: Outcome, names: Sequence[str]) -> WeightedMetrics:
    """Metrics of the rows with a known label."""
    rows = (labels >= 0).any(1)
    if not rows.any():
        raise MmfeatError("there is no labelled row to draw from")
    if not rows.all():
        labels, outcome = labels[rows], Outcome(*(array[rows] for array in outcome))
    return WeightedMetrics(labels, outcome, ranked="map" in names)


def _intervals(draws: Sequence[dict[str, np.ndarray]], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    ends = {name: np.nanquantile(np.concatenate([draw[name] for draw in draws]), [0.025, 0.975]) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _minus(names: Sequence[str], a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a[name] - b[name] for name in names}


def _draws(n_rows: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample draws each row, `(R, N)` float32; some resamples at a time."""
    rng = np.random.default_rng(seed)
    block = max(1, min(128, _DRAWN // n_rows))
    for start in range(0, n, block):
        drawn = [rng.integers(0, n_rows, n_rows) for _ in range(min(block, n - start))]
        yield np.stack([np.bincount(rows, minlength=n_rows).astype(np.float32) for rows in drawn])


class _RankedClass:
    """Average precision of one class: its rows are grouped by falling logit, one group for each distinct positive logit.

    A group reaches from below one positive's logit down to the next positive's logit. Two sparse matrices `(G, N)` of
    ones hold the rows of each group with a known label, and its positives; precision is read at a group's lowest logit.
    """

    def __init__(self, positive: np.ndarray, known: np.ndarray, logits: np.ndarray) -> None:
        levels = np.unique(-logits[positive])

        def matrix(cells: np.ndarray) -> Any:
            return _membership(
                np.flatnonzero(cells), np.searchsorted(levels, -logits[cells]), (len(levels), len(cells))
            )

        self.known, self.positive = matrix(known), matrix(positive)

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision `(R,)` with rows weighted by `(N, R)` counts; NaN if no positive is drawn."""
        drawn = self.positive @ weights  # (G, R)
        hits, ranked, total = drawn.cumsum(0), (self.known @ weights).cumsum(0), drawn.sum(0)  # exact to 2^24
        precision = np.divide(hits, np.maximum(ranked, 1, out=ranked), dtype=np.float64)
        return np.einsum("gr,gr->r", precision, drawn) / np.where(total > 0, total, np.nan)


def _membership(rows: np.ndarray, group: np.ndarray, shape: tuple[int, int]) -> Any:
    """Sparse matrix `(G, N)` with a one where a row belongs to a group; rows below the last group belong to none."""
    from scipy.sparse import csr_matrix

    rows, group = rows[group < shape[0]], group[group < shape[0]]
    return csr_matrix((np.ones(len(rows), np.float32), (group, rows)), shape)


class WeightedMetrics:
    """Metrics of one model with weighted rows. mAP, the slowest, is computed only if `ranked`."""

    def __init__(self, labels: np.ndarray, outcome: Outcome, ranked: bool = True) -> None:
        known, positive = labels >= 0, labels == 1
        predicted = (outcome.predicted == 1) & known
        right = (predicted == positive) & known
        self.n_rows = len(labels)
        self.rows = np.stack(
            [
                samples_f1_rows(labels, outcome.predicted),
                (right | ~known).all(1),
                row_losses(labels, outcome.calibrated),
                known.sum(1),
            ],
            axis=1,
        ).astype(np.float64)
        self.cells = [a.astype(np.float32) for a in (positive & predicted, predicted, positive, right, known)]
        classes = range(labels.shape[1]) if ranked else ()
        self.ranked = [_RankedClass(positive[:, k], known[:, k], outcome.logits[:, k]) for k in classes]

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric `(R,)`; weights `(R, N)` float32 are whole numbers, how often each row counts."""
        f1, subset, loss, n_known = ((weights @ self.rows) / weights.sum(1, keepdims=True, dtype=np.float64)).T
        # (R, K), exact to 2^24
        hits, predicted, positive, right, known = ((weights @ cells).astype(np.float64) for cells in self.cells)
        class_f1 = np.where(positive > 0, 2 * hits / np.maximum(predicted + positive, 1), np.nan)
        accuracy = np.where(known > 0, right / np.maximum(known, 1), np.nan)
        found = {}
        if self.ranked:
            by_row = np.ascontiguousarray(weights.T)
            found["map"] = _mean(np.stack([one.precision(by_row) for one in self.ranked], axis=1))
        return found | {
            "samples_f1": f1,
            "micro_f1": 2 * hits.sum(1) / np.maximum(predicted.sum(1) + positive.sum(1), 1),
            "macro_f1": _mean(class_f1),
            "accuracy_per_class": _mean(accuracy),
            "label_set_accuracy": subset,
            "loss": loss / n_known,
        }


def _mean(by_class: np.ndarray) -> np.ndarray:
    """Mean over classes `(R, K)` without NaN; 0 if all are NaN."""
    kept = np.isfinite(by_class)
    return np.where(kept, by_class, 0).sum(1, dtype=np.float64) / np.maximum(kept.sum(1), 1)
