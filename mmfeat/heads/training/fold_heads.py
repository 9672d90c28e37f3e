"""Heads that are each blind to a fold of the rows, so that every row has logits of heads that never saw its label.

The k heads of one seed are trained in one pass. The epoch of each is chosen by the mean figure of the others on their own
folds, so that no label of a fold chooses anything for the head that predicts it. Where a head is little more than one
product with its inputs, they share their batches, and the loss of each leaves out its fold; where its own arithmetic is
what takes time, each visits the rows of the other folds alone, which is a k-th less of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import RunError
from mmfeat.common.progress import Progress
from mmfeat.common.randomness import mix
from mmfeat.config.schema import PredictConfig
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData, diverged, fit_stacks, head_logits, n_parameters
from mmfeat.heads.training.members import Member

JUDGED = 2000  # rows of the other folds that choose a head's epoch
_SHARED = (
    64  # parameters for each number of a row, up to which sharing a batch costs less than a k-th of the arithmetic
)


@dataclass(frozen=True, eq=False)
class FoldFit:
    """Heads of all seeds and folds.

    Attributes
    ----------
    fits : list of FittedHead
        The heads of the first seed, fold by fold, then those of the next.
    logits : np.ndarray
        `(S, n, K)` float32 by seed, of the rows that have a fold, in their order: by the head that is blind to the row.
    """

    fits: list[FittedHead]
    logits: np.ndarray


def fit_folds(
    name: str,
    data: FitData,
    config: Any,
    seeds: Sequence[int],
    *,
    metric: str = "samples-f1",
    rule: PredictConfig | None = None,
    judges: np.ndarray | None = None,
    bar: Progress | None = None,
) -> FoldFit:
    """Train, for each seed, one head for each fold of the data on all other folds.

    Parameters
    ----------
    data : FitData
        `fold` is -1 for rows that take no part, else from 0 on; `train` and `val` are not read.
    judges : np.ndarray, optional
        `(N,)` bool: rows that may choose epochs; all, when None, or where a fold has none of them.

    Raises
    ------
    RunError
        As :func:`mmfeat.heads.training.fit_heads.fit_head`.
    """
    rows = np.flatnonzero(data.fold >= 0)
    folds = np.arange(int(data.fold.max()) + 1)
    judging = _judging(data, rows, folds, judges)
    members = _members(name, data, config, seeds, rows, folds, judging)
    fits: list[FittedHead | None] = [None] * len(members)
    for at, fitted in fit_stacks(name, data, members, metric=metric, rule=rule, bar=bar, choose_by=_mean_of_others):
        for i, fit in zip(at, fitted, strict=True):
            if fit.error:
                raise RunError(diverged(name, config, fit.error))
            fits[i] = fit
    logits = np.empty((len(seeds), len(rows), data.labels.shape[1]), np.float32)
    for i, fit in enumerate(fits):
        seed, fold = divmod(i, len(folds))
        own = data.fold[rows] == fold
        logits[seed, own] = head_logits(fit.head, data, rows[own])
    return FoldFit(fits, logits)


def _mean_of_others(values: np.ndarray) -> np.ndarray:
    return (values.sum() - values) / (len(values) - 1)


def _judging(data: FitData, rows: np.ndarray, folds: np.ndarray, judges: np.ndarray | None) -> list[np.ndarray]:
    """Of each fold some rows that choose epochs, whatever the rows' order; of all but one together up to `JUDGED`."""
    turn = mix(data.numbers, len(folds))
    allowed = np.ones(len(data.fold), bool) if judges is None else judges
    if not all((allowed & (data.fold == fold)).any() for fold in folds):
        allowed = np.ones(len(data.fold), bool)
    found = []
    for fold in folds:
        own = rows[(data.fold[rows] == fold) & allowed[rows]]
        found.append(own[np.argsort(turn[own], kind="stable")][: -(-JUDGED // (len(folds) - 1))])
    return found


def _members(
    name: str,
    data: FitData,
    config: Any,
    seeds: Sequence[int],
    rows: np.ndarray,
    folds: np.ndarray,
    judging: list[np.ndarray],
) -> list[Member]:
    """Seed by seed, and fold by fold; those of one seed are a company."""
    if n_parameters(name, data, config) <= _SHARED * sum(data.widths.values()):
        val = np.concatenate(judging)
        return [Member(config, seed, rows, val, int(fold), seed) for seed in seeds for fold in folds]
    others = [rows[data.fold[rows] != fold] for fold in folds]
    return [Member(config, seed, others[fold], judging[fold], company=seed) for seed in seeds for fold in folds]
