"""Thresholds fitted for a figure, one for all classes or one for each; numpy only.

F1 only falls where a threshold moves down past a no, so that candidates stand just below the probabilities of yeses,
halfway to the next lower one. The rule for empty rows (P8) is part of what is scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import EMPTY
from mmfeat.metrics.crossfit import FOLDS, crossfitted

UNFITTED = 0.5
TUNED_FOR = ("samples-f1", "micro-f1", "macro-f1")
PRIOR = 100  # rows of a class that its own threshold needs to count as much as the one of all; chosen on coco18 (docs)
_ONE, _EACH = 4096, 512  # candidates at most, of one threshold and of a class's
_SWEEPS = 8
_BLOCK = 2**21  # cells sorted at a time
_EQUAL = 1e-12


def fit_thresholds(
    labels: np.ndarray,
    probs: np.ndarray,
    metric: str = "samples-f1",
    per_class: bool = False,
    empty: str = "most-probable",
) -> float | np.ndarray:
    """The threshold, or one for each class, at which labelled rows have the best figure.

    One threshold is the best of all (of equally good ones the nearest to 0.5; above 4,096 different probabilities of
    yeses, of so many of their quantiles). From there each class in turn takes its best, the others held, until none
    changes (coordinate ascent); for macro-F1 without a rule for empty rows classes do not meet, and that is exact.

    What a class takes is then drawn back to the one threshold, since the best cut through a few yeses is chance: on
    the scale of logits it moves n / (n + 100) of the way, n being the class's yeses or noes, whichever are fewer. A
    class with two yeses moves a fiftieth of the way, one with none stays.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8; -1 counts for nothing.
    probs : np.ndarray
        `(N, K)` float in [0, 1].
    metric : str
        `samples-f1`, `micro-f1` or `macro-f1`; `map` and `loss` depend on no threshold: then samples-F1 is meant.
    per_class : bool
        One for each class.
    empty : str
        What a row gets where nothing passes, as in :func:`mmfeat.common.labels.decide`.

    Returns
    -------
    float or np.ndarray
        A number, or `(K,)` float64; 0.5 where there is no yes to fit on.

    Raises
    ------
    MmfeatError
        Shapes differ, or `empty` is neither of the two.
    """
    if labels.shape != probs.shape:
        raise MmfeatError(f"labels {labels.shape} and probabilities {probs.shape} differ in shape")
    if empty not in EMPTY:
        raise MmfeatError(f"empty = {str(empty)[:60]!r}: use one of: {', '.join(EMPTY)}")
    metric = metric if metric in TUNED_FOR else TUNED_FOR[0]
    kept = (labels >= 0).any(1)
    if not (labels == 1).any():
        return np.full(labels.shape[1], UNFITTED) if per_class else UNFITTED
    rows = _Rows.of(labels[kept], probs[kept], empty)
    one = best_threshold(rows, metric)
    if not per_class:
        return one
    weight = np.minimum(rows.n_yes, rows.known.sum(0) - rows.n_yes)
    return _between(one, best_by_class(rows, metric, one), weight / (weight + PRIOR))


def crossfitted_thresholds(
    labels: np.ndarray,
    probs: np.ndarray,
    metric: str,
    per_class: bool,
    empty: str,
    numbers: np.ndarray,
    folds: int = FOLDS,
) -> np.ndarray:
    """For each row the thresholds of the other folds, `(N, K)` or `(N, 1)` float64, as `decide` takes them.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)` uint64, one for each id; they say the folds, so that the order of the rows does not matter.
    """

    def fit(some: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return np.atleast_1d(fit_thresholds(some, outputs, metric, per_class, empty))

    return crossfitted(fit, labels, probs, numbers, folds)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows with a known label: yeses, what is known, probabilities, and each row's class where nothing passes."""

    yes: np.ndarray  # (N, K) bool
    known: np.ndarray  # (N, K) bool
    probs: np.ndarray  # (N, K)
    top: np.ndarray | None  # (N,), None where an empty row stays empty
    n_yes: np.ndarray  # (K,)

    @classmethod
    def of(cls, labels: np.ndarray, probs: np.ndarray, empty: str) -> _Rows:
        top = probs.argmax(1) if empty == "most-probable" else None
        return cls(labels == 1, labels >= 0, probs, top, (labels == 1).sum(0))


def best_threshold(rows: _Rows, metric: str) -> float:
    """The one threshold with the best figure."""
    candidates = _candidates(rows.probs[rows.yes], rows.probs[rows.known], _ONE)
    if metric == "samples-f1":
        values = _samples_f1_at(rows, candidates)
    else:
        values = _f1(metric, *_counts_at(rows, candidates), rows.n_yes)
    return float(_nearest(candidates, values, UNFITTED))


def _candidates(yeses: np.ndarray, everything: np.ndarray, limit: int) -> np.ndarray:
    """Ascending cuts just below yeses, and one above everything, in the probabilities' own type."""
    ordered = np.unique(everything)
    yeses = np.sort(yeses)
    if len(yeses) > limit:
        yeses = yeses[np.linspace(0, len(yeses) - 1, limit).round().astype(np.int64)]
    above = np.unique(yeses)
    at = np.searchsorted(ordered, above)
    below = np.where(at > 0, ordered[at - 1], 0)
    middle = (below + above) / 2
    cuts = np.where(middle < above, middle, below)
    return np.unique(np.append(cuts, (ordered[-1] + 1) / 2).astype(ordered.dtype))


def _nearest(candidates: np.ndarray, values: np.ndarray, wanted: float) -> np.floating:
    """Of the candidates with the best value the one nearest to a number."""
    best = candidates[values >= values.max() - _EQUAL]
    return best[np.abs(best - wanted).argmin()]


def _from_above(counts: np.ndarray) -> np.ndarray:
    """Of counts by how many of C candidates a cell passes `(..., C + 1)`: what passes each, `(..., C)`."""
    return np.flip(np.flip(counts[..., 1:], -1).cumsum(-1), -1)


def _samples_f1_at(rows: _Rows, candidates: np.ndarray) -> np.ndarray:
    """Sum over rows of F1 at each candidate: a row's F1 changes where the threshold falls past one of its classes."""
    n, k = rows.probs.shape
    gains, start, step = np.zeros(len(candidates) + 1), 0.0, max(1, _BLOCK // k)
    for begin in range(0, n, step):
        block = slice(begin, begin + step)
        order = np.argsort(-rows.probs[block], axis=1, kind="stable")  # of equals the first, as in P8
        probs, yes, known = (np.take_along_axis(a[block], order, 1) for a in (rows.probs, rows.yes, rows.known))
        f1 = _row_f1(yes.cumsum(1), known.cumsum(1), yes.sum(1)[:, None])  # of the m most probable
        nothing = f1[:, :1] if rows.top is not None else _row_f1(0, 0, yes.sum(1)[:, None])
        changes = np.diff(f1, axis=1, prepend=nothing)
        start += nothing.sum()
        at = np.searchsorted(candidates, probs.ravel())
        gains += np.bincount(at, changes.ravel(), len(gains))
    return start + _from_above(gains)


def _row_f1(hits: np.ndarray | int, said: np.ndarray | int, yes: np.ndarray) -> np.ndarray:
    total = said + yes
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)


def _f1(metric: str, hits: np.ndarray, said: np.ndarray, n_yes: np.ndarray) -> np.ndarray:
    """Micro- or macro-F1 `(C,)` of counts `(K, C)`; a class without a yes is left out of macro-F1."""
    if metric == "micro-f1":
        return 2 * hits.sum(0) / np.maximum(said.sum(0) + n_yes.sum(), 1)
    kept = n_yes > 0
    return (2 * hits[kept] / (said[kept] + n_yes[kept, None])).mean(0)


def _counts_at(rows: _Rows, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits and decisions of each class at each candidate, `(K, C)`."""
    hits, said = np.zeros((2, rows.probs.shape[1], len(candidates)), np.int64)
    for k in range(len(hits)):
        for counts, cells in ((hits, rows.yes[:, k]), (said, rows.known[:, k])):
            counts[k] = cells.sum() - _n_below(rows.probs[cells, k], candidates)
            if rows.top is not None:  # rows where nothing passes, and this is the most probable
                counts[k] += _n_below(rows.probs[cells & (rows.top == k), k], candidates)
    return hits, said


def _n_below(probs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(probs), candidates, side="right")


def best_by_class(rows: _Rows, metric: str, start: float) -> np.ndarray:
    """Thresholds `(K,)` float64 by coordinate ascent from one for all; a class without a yes keeps that."""
    ascent = _Ascent(rows, metric, start)
    classes = np.flatnonzero(rows.n_yes)
    for _ in range(_SWEEPS):
        if not sum([ascent.improve(k) for k in classes]):
            break
    return np.array([c[at] for c, at in zip(ascent.candidates, ascent.at, strict=True)], np.float64)


class _Ascent:
    """Where each class's threshold stands among its candidates, and what passes."""

    def __init__(self, rows: _Rows, metric: str, start: float) -> None:
        self.rows, self.metric = rows, metric
        own = np.asarray(start, rows.probs.dtype)
        self.candidates, self.at = [], []
        self.passed = np.empty(rows.probs.shape, np.int16)  # how many of its class's candidates a cell passes
        for k in range(rows.probs.shape[1]):
            cells = rows.known[:, k]
            cuts = _candidates(rows.probs[rows.yes[:, k], k], rows.probs[cells, k], _EACH) if cells.any() else own[None]
            cuts = np.union1d(cuts, own[None])
            self.candidates.append(cuts)
            self.at.append(int(np.searchsorted(cuts, own)))
            self.passed[:, k] = np.searchsorted(cuts, rows.probs[:, k])
        self.on = self.passed > np.array(self.at)
        self.n_on = self.on.sum(1)
        self.hits, self.said = (self.on & rows.yes).sum(1), (self.on & rows.known).sum(1)  # of each row
        self.class_hits, self.class_said = (self.on & rows.yes).sum(0), (self.on & rows.known).sum(0)
        self.row_yes = rows.yes.sum(1)

    def improve(self, k: int) -> bool:
        """Give one class its best threshold, the others held; whether it moved."""
        values = self._samples(k) if self.metric == "samples-f1" else self._counted(k)
        if values.max() <= values[self.at[k]] + _EQUAL * len(self.on):
            return False
        cuts = self.candidates[k]
        self.at[k] = int(np.searchsorted(cuts, _nearest(cuts, values, float(cuts[self.at[k]]))))
        on, yes, known = self.passed[:, k] > self.at[k], self.rows.yes[:, k], self.rows.known[:, k]
        change = on.astype(np.int64) - self.on[:, k]
        self.n_on += change
        self.hits += change * yes
        self.said += change * known
        self.class_hits[k], self.class_said[k] = (on & yes).sum(), (on & known).sum()
        self.on[:, k] = on
        return True

    def _samples(self, k: int) -> np.ndarray:
        """Sum over rows of F1 at each of a class's candidates."""
        rows, on, yes, known = self.rows, self.on[:, k], self.rows.yes[:, k], self.rows.known[:, k]
        hits, said = self.hits - (on & yes), self.said - (on & known)
        without = _row_f1(hits, said, self.row_yes)
        if rows.top is not None:
            lonely = np.flatnonzero(self.n_on == on)  # no other class passes
            top = lonely, rows.top[lonely]
            without[lonely] = _row_f1(rows.yes[top], rows.known[top].astype(np.int64), self.row_yes[lonely])
        with_it = _row_f1(hits + yes, said + known, self.row_yes)
        gains = np.bincount(self.passed[:, k], with_it - without, len(self.candidates[k]) + 1)
        return without.sum() + _from_above(gains)

    def _counted(self, k: int) -> np.ndarray:
        """Micro- or macro-F1 at each of a class's candidates."""
        rows, passed, n = self.rows, self.passed[:, k], len(self.candidates[k]) + 1
        n_classes = len(self.candidates)
        tables = []
        for counts, cells in ((self.class_hits, rows.yes), (self.class_said, rows.known)):
            table = np.repeat(counts[:, None], n - 1, 1)
            table[k] = _from_above(np.bincount(passed[cells[:, k]], minlength=n))
            if rows.top is not None:  # where no other class passes the most probable is given until this one passes
                lonely = np.flatnonzero(self.n_on == self.on[:, k])
                lonely = lonely[cells[lonely, rows.top[lonely]]]
                given = np.bincount(rows.top[lonely] * n + passed[lonely], minlength=n_classes * n)
                table += given.reshape(n_classes, n).cumsum(1)[:, :-1]
            tables.append(table)
        return _f1(self.metric, *tables, rows.n_yes)


def _between(one: float, own: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Thresholds a share of the way from one to others, on the scale of logits; no share is the one to the last bit."""
    clipped = np.clip(np.stack([np.full_like(own, one), own]), 1e-9, 1 - 1e-9)
    a, b = np.log(clipped / (1 - clipped))
    return np.where(share > 0, 1 / (1 + np.exp(-(a + share * (b - a)))), one)
