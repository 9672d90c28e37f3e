"""A model of labels with errors: the probability that a given label is wrong, by several predictions together.

For each class, the true label has log odds that are linear in the models' logits. A true positive is given as a negative with
one probability, a true negative as a positive with another. So the given labels follow a logistic curve whose ends are not 0
and 1, and the ends tell how many labels are wrong. Curve and ends are fitted by expectation maximisation. The ends of a class
are drawn towards those of all classes, and its weights towards the mean of the models, as by some further rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.labels import sigmoid

STEPS = 20
_CELLS = 1 << 22  # labels at a time: bounds memory
_FITTED = 1 << 23  # labels that the fit reads; of more, rows are left out
_ROWS = 10.0  # strength of the prior of weights: comparable to some tens of rows
_LABELS = 5000.0  # strength of the prior of the ends: labels of all classes that a class counts as its own
_FEW = 0.01  # share of wrong labels before any is seen
_MOST = 0.45  # no larger share of labels is wrong


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelNoise:
    """A fitted model of M predictions and K classes.

    Attributes
    ----------
    weights : np.ndarray
        `(K, M + 1)` float64: of each model's logit, and the intercept.
    missed : np.ndarray
        `(K,)`: the probability that a true positive is given as a negative.
    added : np.ndarray
        `(K,)`: the probability that a true negative is given as a positive.
    """

    weights: np.ndarray
    missed: np.ndarray
    added: np.ndarray

    def wrong(self, labels: np.ndarray, logits: Sequence[np.ndarray]) -> np.ndarray:
        """The probability that each given label is wrong, `(N, K)` float32; NaN for an unknown label.

        Parameters
        ----------
        labels : np.ndarray
            `(N, K)` int8: 1, 0 or -1.
        logits : sequence of np.ndarray
            `(N, K)` by each model, out of fold.
        """
        found = np.full(labels.shape, np.nan, np.float32)
        for block in class_blocks(labels.shape, _CELLS):
            truth = self._truth(_inputs(logits, block), labels[:, block], block)
            found[:, block] = np.where(labels[:, block] == 1, 1 - truth, truth)
        found[labels < 0] = np.nan
        return found

    def _truth(self, inputs: np.ndarray, labels: np.ndarray, block: slice) -> np.ndarray:
        """The probability that the true label is positive, given the models and the given label, `(N, k)`."""
        eta, positive = _curve(inputs, self.weights[block]), labels == 1
        missed, added = self.missed[block], self.added[block]
        if_true = np.where(positive, 1 - missed, missed) * eta
        if_false = np.where(positive, added, 1 - added) * (1 - eta)
        return if_true / np.maximum(if_true + if_false, 1e-300)


def fit_label_noise(
    labels: np.ndarray, logits: Sequence[np.ndarray], *, n_models: int | None = None, steps: int = STEPS
) -> LabelNoise:
    """Fit the model to given labels `(N, K)` and the logits `(N, K)` of M models, out of fold. Unknown labels are left out.

    Parameters
    ----------
    n_models : int, optional
        The weights are drawn towards the mean of the first models, by default of all; those of others towards 0.
    """
    n_models = len(logits) if n_models is None else n_models
    n, k = labels.shape
    rows = slice(None, None, -(-n * k // _FITTED) or 1)
    labels, logits = labels[rows], [one[rows] for one in logits]
    prior = np.where(np.arange(len(logits) + 1) < n_models, 1 / n_models, 0.0)
    noise = LabelNoise(weights=np.tile(prior, (k, 1)), missed=np.full(k, _FEW), added=np.full(k, _FEW))
    for _ in range(steps):
        weights, counts = noise.weights.copy(), np.zeros((4, k))
        for block in class_blocks(labels.shape, _CELLS):
            inputs, known = _inputs(logits, block), labels[:, block] >= 0
            truth = noise._truth(inputs, labels[:, block], block)
            counts[:, block] = _counts(truth, labels[:, block])
            weights[block] = _newton(inputs, weights[block], np.where(known, truth, np.nan), prior)
        noise = LabelNoise(weights=weights, missed=_end(*counts[:2]), added=_end(*counts[2:]))
    return noise


def class_blocks(shape: tuple[int, ...], cells: int) -> Iterator[slice]:
    """Slices of the K columns of an array `(N, K)` with up to about `cells` values each."""
    step = max(1, cells // max(1, shape[0]))
    return (slice(start, start + step) for start in range(0, shape[1], step))


def _inputs(logits: Sequence[np.ndarray], block: slice) -> np.ndarray:
    """The logits of some classes and a 1 for the intercept, `(k, N, M + 1)` float64."""
    some = [one[:, block].T.astype(np.float64) for one in logits]
    return np.stack([*some, np.ones_like(some[0])], axis=-1)


def _curve(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The probability that the true label is positive, given the models alone, `(N, k)`."""
    return sigmoid((inputs @ weights[..., None])[..., 0].T)


def _counts(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """True positives and those given as negatives, true negatives and those given as positives, `(4, k)`."""
    known, positive = labels >= 0, labels == 1
    parts = (known * truth, (known & ~positive) * truth, known * (1 - truth), positive * (1 - truth))
    return np.stack([part.sum(0) for part in parts])


def _end(n: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The share of wrong labels of each class, drawn towards that of all classes together."""
    pooled = (wrong.sum() + _FEW) / (n.sum() + 1)
    return np.minimum((wrong + _LABELS * pooled) / (n + _LABELS), _MOST)


def _newton(inputs: np.ndarray, weights: np.ndarray, truth: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """One step of each class's logistic regression on the probabilities of its true labels; NaN is left out."""
    eta = _curve(inputs, weights)
    residual, curvature = np.nan_to_num(truth - eta), np.where(np.isnan(truth), 0, eta * (1 - eta))
    gradient = (inputs * residual.T[..., None]).sum(1) - _ROWS * (weights - prior)
    hessian = np.swapaxes(inputs * curvature.T[..., None], 1, 2) @ inputs + _ROWS * np.eye(len(prior))
    return weights + np.linalg.solve(hessian, gradient[..., None])[..., 0]
