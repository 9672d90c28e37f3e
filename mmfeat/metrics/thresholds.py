"""Thresholds that maximise a metric, one for all classes or one for each class; numpy only.

Moving a threshold down past a negative can only lower F1. The candidates therefore lie just below the probabilities of
positives, halfway to the next lower probability. The rule for empty rows (P8) is part of the optimised metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import EMPTY
from mmfeat.metrics.crossfit import FOLDS, crossfitted

UNFITTED = 0.5
TUNED_FOR = ("samples-f1", "micro-f1", "macro-f1")
PRIOR = 100  # rows of a class at which its own threshold weighs as much as the common one; tuned on coco18 (docs)
_ONE, _EACH = 4096, 512  # most candidates of the common threshold and of a class's threshold
_SWEEPS = 8
_BLOCK = 2**21  # cells sorted at a time
_EQUAL = 1e-12


def fit_thresholds(
    labels: np.ndarray,
    probs: np.ndarray,
    metric: str = "samples-f1",
    *,
    per_class: bool = False,
    empty: str = "most-probable",
) -> float | np.ndarray:
    """The threshold, or one for each class, that maximises a metric on labelled rows.

    The common threshold is the best of all candidates (of equally good ones, the nearest to 0.5; at most 4,096
    quantiles of the positives' probabilities are tried). With `per_class`, each class in turn then takes its best
    threshold while the others are held, until none changes (coordinate ascent). This is exact for macro-F1 without a
    rule for empty rows, where the classes are independent.

    A class's threshold is then shrunk towards the common one, because the best cut through a few positives is noise: on
    the logit scale it moves n / (n + 100) of the way, where n is the smaller of the class's numbers of positives and
    negatives. A class with two positives moves a fiftieth of the way; a class without positives keeps the common one.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8; -1 (unknown) is ignored.
    probs : np.ndarray
        `(N, K)` float in [0, 1].
    metric : str
        `samples-f1`, `micro-f1` or `macro-f1`. `map` and `loss` do not depend on thresholds: samples-F1 is used.
    per_class : bool
        Fit one threshold for each class.
    empty : str
        Labels of a row without a probability above its threshold, see :func:`mmfeat.common.labels.decide`.

    Returns
    -------
    float or np.ndarray
        A number, or `(K,)` float64; 0.5 if there are no positives.

    Raises
    ------
    MmfeatError
        Shapes differ, or `empty` is unknown.
    """
    if labels.shape != probs.shape:
        raise MmfeatError(f"labels {labels.shape} and probabilities {probs.shape} differ in shape")
    if empty not in EMPTY:
        raise MmfeatError(f"empty = {str(empty)[:60]!r}: use one of: {', '.join(EMPTY)}")
    metric = tuned_metric(metric)
    kept = (labels >= 0).any(1)
    if not (labels == 1).any():
        return np.full(labels.shape[1], UNFITTED) if per_class else UNFITTED
    rows = _Rows.of(labels[kept], probs[kept], empty)
    common = best_threshold(rows, metric)
    if not per_class:
        return common
    weight = np.minimum(rows.n_positive, rows.known.sum(0) - rows.n_positive)
    return _shrunk(common, best_by_class(rows, metric, common), weight / (weight + PRIOR))


def tuned_metric(metric: str) -> str:
    """The metric that thresholds are fitted for: `map` and `loss` do not depend on them, so samples-F1 is used."""
    return metric if metric in TUNED_FOR else TUNED_FOR[0]


def crossfitted_thresholds(
    labels: np.ndarray,
    probs: np.ndarray,
    metric: str,
    *,
    per_class: bool,
    empty: str,
    numbers: np.ndarray,
    folds: int = FOLDS,
) -> np.ndarray:
    """For each row, the thresholds fitted on the other folds, `(N, K)` or `(N, 1)` float64, as `decide` takes them.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)` uint64, one for each id; they define the folds, whatever the order of the rows.
    """

    def fit(fold_labels: np.ndarray, fold_probs: np.ndarray) -> np.ndarray:
        return np.atleast_1d(fit_thresholds(fold_labels, fold_probs, metric, per_class=per_class, empty=empty))

    return crossfitted(fit, labels, probs, numbers=numbers, folds=folds)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rows:
    """The rows with a known label."""

    positive: np.ndarray  # (N, K) bool
    known: np.ndarray  # (N, K) bool
    probs: np.ndarray  # (N, K)
    top: np.ndarray | None  # (N,): the class of a row without a probability above its threshold; None: no class
    n_positive: np.ndarray  # (K,)

    @classmethod
    def of(cls, labels: np.ndarray, probs: np.ndarray, empty: str) -> _Rows:
        top = probs.argmax(1) if empty == "most-probable" else None
        positive = labels == 1
        return cls(positive=positive, known=labels >= 0, probs=probs, top=top, n_positive=positive.sum(0))


def best_threshold(rows: _Rows, metric: str) -> float:
    """The common threshold with the best value of a metric."""
    candidates = _candidates(rows.probs[rows.positive], rows.probs[rows.known], _ONE)
    if metric == "samples-f1":
        values = _samples_f1_at(rows, candidates)
    else:
        values = _class_f1_at(metric, *_counts_at(rows, candidates), n_positive=rows.n_positive)
    return float(_nearest(candidates, values, UNFITTED))


def _candidates(positives: np.ndarray, everything: np.ndarray, limit: int) -> np.ndarray:
    """Ascending cuts just below positives, and one above everything, in the dtype of the probabilities."""
    ordered = np.unique(everything)
    positives = np.sort(positives)
    if len(positives) > limit:
        positives = positives[np.linspace(0, len(positives) - 1, limit).round().astype(np.int64)]
    above = np.unique(positives)
    at = np.searchsorted(ordered, above)
    below = np.where(at > 0, ordered[at - 1], 0)
    middle = (below + above) / 2
    cuts = np.where(middle < above, middle, below)
    return np.unique(np.append(cuts, (ordered[-1] + 1) / 2).astype(ordered.dtype))


def _nearest(candidates: np.ndarray, values: np.ndarray, wanted: float) -> np.floating:
    """The candidate nearest to a number, among those with the best value."""
    best = candidates[values >= values.max() - _EQUAL]
    return best[np.abs(best - wanted).argmin()]


def _passing(counts: np.ndarray) -> np.ndarray:
    """How many cells pass each candidate `(..., C)`, from the counts of cells that pass 0 to C of them `(..., C + 1)`."""
    return np.flip(np.flip(counts[..., 1:], -1).cumsum(-1), -1)


def _samples_f1_at(rows: _Rows, candidates: np.ndarray) -> np.ndarray:
    """Sum over rows of F1 at each candidate: a row's F1 changes when the threshold falls past one of its classes."""
    n, k = rows.probs.shape
    gains, start, step = np.zeros(len(candidates) + 1), 0.0, max(1, _BLOCK // k)
    for begin in range(0, n, step):
        block = slice(begin, begin + step)
        order = np.argsort(-rows.probs[block], axis=1, kind="stable")  # of equal ones the first, as in P8
        probs, positive, known = (
            np.take_along_axis(a[block], order, 1) for a in (rows.probs, rows.positive, rows.known)
        )
        n_positive = positive.sum(1)[:, None]
        f1 = _row_f1(positive.cumsum(1), known.cumsum(1), n_positive)  # if the m most probable are predicted
        none_above = f1[:, :1] if rows.top is not None else _row_f1(0, 0, n_positive)
        changes = np.diff(f1, axis=1, prepend=none_above)
        start += none_above.sum()
        at = np.searchsorted(candidates, probs.ravel())
        gains += np.bincount(at, changes.ravel(), len(gains))
    return start + _passing(gains)


def _row_f1(hits: np.ndarray | int, predicted: np.ndarray | int, positive: np.ndarray) -> np.ndarray:
    total = predicted + positive
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)


def _class_f1_at(metric: str, hits: np.ndarray, predicted: np.ndarray, *, n_positive: np.ndarray) -> np.ndarray:
    """Micro- or macro-F1 `(C,)` of counts `(K, C)`; macro-F1 leaves out classes without a positive."""
    if metric == "micro-f1":
        return 2 * hits.sum(0) / np.maximum(predicted.sum(0) + n_positive.sum(), 1)
    kept = n_positive > 0
    return (2 * hits[kept] / (predicted[kept] + n_positive[kept, None])).mean(0)


def _counts_at(rows: _Rows, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits and predicted positives of each class at each candidate, `(K, C)`."""
    hits, predicted = np.zeros((2, rows.probs.shape[1], len(candidates)), np.int64)
    for k in range(len(hits)):
        for counts, cells in ((hits, rows.positive[:, k]), (predicted, rows.known[:, k])):
            counts[k] = cells.sum() - _n_below(rows.probs[cells, k], candidates)
            if rows.top is not None:  # rows with nothing above the threshold, and this class on top
                counts[k] += _n_below(rows.probs[cells & (rows.top == k), k], candidates)
    return hits, predicted


def _n_below(probs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(probs), candidates, side="right")


def best_by_class(rows: _Rows, metric: str, start: float) -> np.ndarray:
    """Thresholds `(K,)` float64 by coordinate ascent from a common start; a class without a positive keeps the start."""
    ascent = _Ascent(rows, metric, start)
    classes = np.flatnonzero(rows.n_positive)
    for _ in range(_SWEEPS):
        if not sum([ascent.improve(k) for k in classes]):
            break
    return np.array([c[at] for c, at in zip(ascent.candidates, ascent.at, strict=True)], np.float64)


class _Ascent:
    """State of the coordinate ascent: each class's candidates, which of them is its threshold, and which cells pass."""

    def __init__(self, rows: _Rows, metric: str, start: float) -> None:
        self.rows, self.metric = rows, metric
        own = np.asarray(start, rows.probs.dtype)
        self.candidates, self.at = [], []
        self.passed = np.empty(rows.probs.shape, np.int16)  # how many of its class's candidates a cell passes
        for k in range(rows.probs.shape[1]):
            cells = rows.known[:, k]
            cuts = own[None]
            if cells.any():
                cuts = np.union1d(_candidates(rows.probs[rows.positive[:, k], k], rows.probs[cells, k], _EACH), cuts)
            self.candidates.append(cuts)
            self.at.append(int(np.searchsorted(cuts, own)))
            self.passed[:, k] = np.searchsorted(cuts, rows.probs[:, k])
        self.on = self.passed > np.array(self.at)
        self.n_on = self.on.sum(1)
        hits, predicted = self.on & rows.positive, self.on & rows.known
        self.hits, self.predicted = hits.sum(1), predicted.sum(1)  # of each row
        self.class_hits, self.class_predicted = hits.sum(0), predicted.sum(0)
        self.row_positive = rows.positive.sum(1)

    def improve(self, k: int) -> bool:
        """Move one class to its best threshold while the others are held; returns whether it moved."""
        values = self._samples_f1(k) if self.metric == "samples-f1" else self._class_f1(k)
        if values.max() <= values[self.at[k]] + _EQUAL * len(self.on):
            return False
        cuts = self.candidates[k]
        self.at[k] = int(np.searchsorted(cuts, _nearest(cuts, values, float(cuts[self.at[k]]))))
        on, positive, known = self.passed[:, k] > self.at[k], self.rows.positive[:, k], self.rows.known[:, k]
        change = on.astype(np.int64) - self.on[:, k]
        self.n_on += change
        self.hits += change * positive
        self.predicted += change * known
        self.class_hits[k], self.class_predicted[k] = (on & positive).sum(), (on & known).sum()
        self.on[:, k] = on
        return True

    def _samples_f1(self, k: int) -> np.ndarray:
        """Sum over rows of F1 at each of a class's candidates."""
        rows, on, positive, known = self.rows, self.on[:, k], self.rows.positive[:, k], self.rows.known[:, k]
        hits, predicted = self.hits - (on & positive), self.predicted - (on & known)
        without = _row_f1(hits, predicted, self.row_positive)
        if rows.top is not None:
            alone = np.flatnonzero(self.n_on == on)  # rows where no other class passes
            top = alone, rows.top[alone]
            without[alone] = _row_f1(rows.positive[top], rows.known[top].astype(np.int64), self.row_positive[alone])
        with_it = _row_f1(hits + positive, predicted + known, self.row_positive)
        gains = np.bincount(self.passed[:, k], with_it - without, len(self.candidates[k]) + 1)
        return without.sum() + _passing(gains)

    def _class_f1(self, k: int) -> np.ndarray:
        """Micro- or macro-F1 at each of a class's candidates."""
        rows, passed, n = self.rows, self.passed[:, k], len(self.candidates[k]) + 1
        n_classes = len(self.candidates)
        tables = []
        for counts, cells in ((self.class_hits, rows.positive), (self.class_predicted, rows.known)):
            table = np.repeat(counts[:, None], n - 1, 1)
            table[k] = _passing(np.bincount(passed[cells[:, k]], minlength=n))
            if rows.top is not None:  # if no other class passes, the top class is predicted until this class passes
                alone = np.flatnonzero(self.n_on == self.on[:, k])
                alone = alone[cells[alone, rows.top[alone]]]
                given = np.bincount(rows.top[alone] * n + passed[alone], minlength=n_classes * n)
                table += given.reshape(n_classes, n).cumsum(1)[:, :-1]
            tables.append(table)
        return _class_f1_at(self.metric, *tables, n_positive=rows.n_positive)


def _shrunk(common: float, own: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Thresholds a share of the way from the common one to a class's own, on the logit scale; exactly common at 0."""
    clipped = np.clip(np.stack([np.full_like(own, common), own]), 1e-9, 1 - 1e-9)
    a, b = np.log(clipped / (1 - clipped))
    return np.where(share > 0, 1 / (1 + np.exp(-(a + share * (b - a)))), common)
