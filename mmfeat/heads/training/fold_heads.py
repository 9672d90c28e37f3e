"""Out-of-fold heads: each head is trained without one fold, so that each row has logits of heads that never saw its label.

The k heads of one seed are trained in one pass. The epoch of a head is selected by the mean metric of the other heads on
their own folds, so that no label of a fold influences the head that predicts it. Small heads share their batches, and each
head's loss excludes its fold. Larger heads read only the rows of the other folds, which saves a k-th of the arithmetic.
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
from mmfeat.heads.training.fit_heads import FitData, diverged, fit_stacks, n_parameters
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member

JUDGED = 2000  # number of rows of the other folds that a head's epoch is selected on
# Heads with at most this number of parameters per input value share batches.
_SHARED = 64


@dataclass(frozen=True, eq=False)
class FoldFit:
    """Heads of all seeds and folds.

    Attributes
    ----------
    fits : list of FittedHead
        The heads of the first seed, fold by fold, then those of the next seed.
    logits : np.ndarray
        `(S, n, K)` float32 for S seeds and the n rows with a fold, by the head that was trained without the row.
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
        `fold` counts from 0; -1 for rows that are not used. `train` and `val` are not read.
    judges : np.ndarray, optional
        `(N,)` bool: rows that epochs may be selected on; all rows if it is None or excludes a whole fold.

    Raises
    ------
    RunError
        As :func:`mmfeat.heads.training.fit_heads.fit_head`.
    """
    rows = np.flatnonzero(data.fold >= 0)
    folds = np.arange(int(data.fold.max()) + 1)
    judging = _judging(data, rows, folds, judges)
    members = _members(name, data, config, seeds=seeds, rows=rows, folds=folds, judging=judging)
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
    """For each fold, a sample of rows (by id) that epochs are selected on; up to `JUDGED` in any k - 1 folds."""
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
    *,
    seeds: Sequence[int],
    rows: np.ndarray,
    folds: np.ndarray,
    judging: list[np.ndarray],
) -> list[Member]:
    """Members by seed, then by fold; the members of one seed are trained in one pass."""
    if n_parameters(name, data, config) <= _SHARED * sum(data.widths.values()):
        val = np.concatenate(judging)
        return [Member(config, seed, rows, val, fold=int(fold), company=seed) for seed in seeds for fold in folds]
    others = [rows[data.fold[rows] != fold] for fold in folds]
    return [Member(config, seed, others[fold], judging[fold], company=seed) for seed in seeds for fold in folds]
