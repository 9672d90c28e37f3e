"""Fits the weights of ensembles, on rows that no member was trained on; cross-fitted for out-of-sample metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.optimize import minimize

from mmfeat.common.labels import sigmoid
from mmfeat.common.randomness import mix
from mmfeat.runs.ensembles import combined

FOLDS = 5
STRENGTH = 10.0  # of the regularisation towards default weights; comparable to some tens of rows
STEPS = 20  # additions of a greedy selection

_SALT = 0x656E73656D626C65  # makes these folds independent of other random draws by id

Score = Callable[[np.ndarray, np.ndarray], float]  # from labels and logits `(n, K)`; higher is better


@dataclass(frozen=True)
class Weights:
    """Weights and intercepts for `combined`.

    Attributes
    ----------
    weights : np.ndarray
        `(M,)`, or `(M, K)` with own weights for each class; float64, not negative.
    bias : np.ndarray or None
        `(K,)`; None for a mean.
    """

    weights: np.ndarray
    bias: np.ndarray | None = None

    def of(self, rows: Rows) -> np.ndarray:
        """The ensemble's logits `(N, K)`."""
        return combined(rows.logits, rows.known, self.weights, rows.prior, bias=self.bias)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The N rows that weights of M members are fitted on.

    Attributes
    ----------
    logits : np.ndarray
        `(M, N, K)` float32.
    known : np.ndarray
        `(M, N)` bool: whether the row has one of the member's modalities.
    labels : np.ndarray
        `(N, K)` int8; unknown labels (-1) are ignored.
    numbers : np.ndarray
        `(N,)` uint64 hashes of the ids.
    prior : np.ndarray
        `(K,)` logits for rows without a modality of any member.
    """

    logits: np.ndarray
    known: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray
    prior: np.ndarray

    def take(self, rows: np.ndarray) -> Rows:
        """A selection of rows, by mask or by row numbers."""
        labels, numbers = self.labels[rows], self.numbers[rows]
        return dataclasses.replace(
            self, logits=self.logits[:, rows], known=self.known[:, rows], labels=labels, numbers=numbers
        )

    def of(self, members: np.ndarray) -> Rows:
        """The same rows with a selection of the members."""
        return dataclasses.replace(self, logits=self.logits[members], known=self.known[members])


Fit = TypeVar("Fit", bound=Callable[[Rows, Score, float], Weights])


@dataclass(frozen=True)
class Method:
    """A method of fitting an ensemble's weights.

    Attributes
    ----------
    fit : callable
        Takes the rows (each with a modality of some member), the score and the strength; returns weights.
    selects : bool
        Whether members of weight 0 are removed, even for rows that no other member can predict.
    """

    fit: Callable[[Rows, Score, float], Weights]
    selects: bool = False


_METHODS: dict[str, Method] = {}


def register_method(name: str, *, selects: bool = False) -> Callable[[Fit], Fit]:
    """Decorator: register a method under a name of :data:`mmfeat.config.schema.METHODS`."""

    def register(fit: Fit) -> Fit:
        _METHODS[name] = Method(fit, selects)
        return fit

    return register


def fit_weights(method: str, rows: Rows, score: Score, strength: float = STRENGTH) -> Weights:
    """Fit an ensemble's weights. Without rows, all members get the same weight.

    Parameters
    ----------
    method : str
        - `weighted`: one weight for each member, with sum 1, that minimise the cross-entropy.
        - `per-class`: the same for each class, regularised towards the common weights.
        - `stacked`: for each class a logistic regression on the members' logits with non-negative weights (Breiman, 1996),
          regularised towards the mean.
        - `greedy`: members are added one by one to maximise the score (Caruana et al., 2004).
    score : callable
        The score that `greedy` maximises. The other methods minimise the cross-entropy, which is smooth; if all members
        know every row, it is convex and has a single optimum.
    strength : float
        Strength of the regularisation.
    """
    rows = rows.take(np.argsort(rows.numbers, kind="stable"))  # sums do not depend on the manifest's order
    return _METHODS[method].fit(rows.take(rows.known.any(0)), score, strength)


def _even(rows: Rows) -> np.ndarray:
    return np.full(len(rows.logits), 1 / len(rows.logits))


@register_method("weighted")
def _weighted(rows: Rows, score: Score, strength: float) -> Weights:
    return Weights(_descend(rows, range(rows.logits.shape[2]), _even(rows), strength)[0])


@register_method("per-class")
def _per_class(rows: Rows, score: Score, strength: float) -> Weights:
    n_classes = rows.logits.shape[2]
    shared, _ = _descend(rows, range(n_classes), _even(rows), strength)
    return Weights(np.stack([_descend(rows, [k], shared, strength)[0] for k in range(n_classes)], 1))


@register_method("stacked")
def _stacked(rows: Rows, score: Score, strength: float) -> Weights:
    fits = [_descend(rows, [k], _even(rows), strength, free=True) for k in range(rows.logits.shape[2])]
    return Weights(np.stack([w for w, _ in fits], 1), np.array([b for _, b in fits]))


@register_method("greedy", selects=True)
def _selected(rows: Rows, score: Score, strength: float) -> Weights:
    return Weights(_greedy(rows, score))


def cross_fit(method: str, rows: Rows, score: Score, strength: float = STRENGTH) -> tuple[Weights, np.ndarray]:
    """Fit weights on all rows; also returns out-of-fold logits `(N, K)`, by weights fitted on the other folds."""
    fold = weight_folds(rows.numbers)
    logits = np.empty(rows.logits.shape[1:], np.float32)
    for one in np.unique(fold):
        held_out = fold == one
        fitted, fold_rows = fit_weights(method, rows.take(~held_out), score, strength), rows.take(held_out)
        if _METHODS[method].selects:
            selected = fitted.weights > 0
            fitted, fold_rows = Weights(fitted.weights[selected]), fold_rows.of(selected)
        logits[held_out] = fitted.of(fold_rows)
    return fit_weights(method, rows, score, strength), logits


def weight_folds(numbers: np.ndarray) -> np.ndarray:
    """The fold of each row, `(N,)` int; it depends only on the row's id."""
    return (mix(numbers, _SALT) % np.uint64(FOLDS)).astype(int)


def _descend(
    rows: Rows, classes: list[int] | range, start: np.ndarray, strength: float, *, free: bool = False
) -> tuple[np.ndarray, float]:
    """Weights `(M,)` and intercept that minimise the cross-entropy of some classes, with a ridge penalty around `start`.

    Parameters
    ----------
    free : bool
        Allow any sum of the weights, and fit an intercept; otherwise the sum is 1 and the intercept 0.
    """
    n_members = len(start)
    cells = []
    for k in classes:
        labelled = rows.labels[:, k] >= 0
        z, known = rows.logits[:, labelled, k].T, rows.known[:, labelled].T  # (n, M)
        cells.append((np.where(known, z, 0).astype(np.float64), known, rows.labels[labelled, k] == 1))
    n_cells = max(1, sum(len(y) for *_, y in cells))

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = x[:n_members], x[n_members]
        away = w - start
        loss, slope = strength / 2 * (away @ away + b * b), np.append(strength * away, strength * b)
        for z, known, y in cells:
            part = _cross_entropy(w, b, z, known, y)
            loss, slope = loss + part[0], slope + part[1]
        return loss / n_cells, slope / n_cells

    bounds = [(0.0, None)] * n_members + [(None, None) if free else (0.0, 0.0)]
    to_one = {"type": "eq", "fun": lambda x: x[:-1].sum() - 1, "jac": lambda x: np.append(np.ones(n_members), 0.0)}
    found = minimize(
        objective,
        np.append(start, 0.0),
        jac=True,
        method="SLSQP",
        bounds=bounds,
        constraints=[] if free else [to_one],
        options={"maxiter": 200, "ftol": 1e-10},
    )
    weights = np.maximum(found.x[:n_members], 0)
    return (weights, float(found.x[n_members])) if free else (weights / weights.sum(), 0.0)


def _cross_entropy(
    w: np.ndarray, b: float, z: np.ndarray, known: np.ndarray, y: np.ndarray
) -> tuple[float, np.ndarray]:
    """Cross-entropy summed over rows, and its gradient in `(w, b)`, for logits as in `combined`."""
    shares = known * np.maximum(w, 1e-9)  # (n, M)
    total = shares.sum(1)
    mean = (shares * z).sum(1) / total  # (n,)
    scale = w.sum()
    logits = scale * mean + b
    loss = (np.logaddexp(0, logits) - y * logits).sum()
    error = sigmoid(logits) - y  # (n,)
    # (n, M); equal to z if all members know the row
    derivative = mean[:, None] + scale * known * (z - mean[:, None]) / total[:, None]
    return loss, np.append(error @ derivative, error.sum())


def _greedy(rows: Rows, score: Score) -> np.ndarray:
    """Greedy forward selection with repetition: each member's share `(M,)` of the best prefix of `STEPS` additions."""
    n_members = len(rows.logits)
    counts, best, best_value = np.zeros(n_members), np.full(n_members, 1 / n_members), -np.inf
    if not (rows.labels >= 0).any():
        return best
    total, n_known = np.zeros(rows.logits.shape[1:], np.float32), np.zeros((len(rows.labels), 1), np.float32)
    known = rows.known[:, :, None].astype(np.float32)  # (M, N, 1)
    known_logits = np.where(rows.known[:, :, None], rows.logits, 0)

    def value(m: int) -> float:
        """The score with member `m` added."""
        n = n_known + known[m]
        return score(rows.labels, np.where(n > 0, (total + known_logits[m]) / np.maximum(n, 1), rows.prior))

    for step in range(1, STEPS + 1):
        values = [value(m) for m in range(n_members)]
        added = int(np.argmax(values))  # the first if several are equal
        total, n_known = total + known_logits[added], n_known + known[added]
        counts[added] += 1
        if values[added] > best_value:
            best, best_value = counts / step, values[added]
    return best
