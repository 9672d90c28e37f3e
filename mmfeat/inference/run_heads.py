"""The heads of a run on a feature table, a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from mmfeat.heads.head import Head
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.heads.training.head_logits import heads_logits
from mmfeat.runs.composition import head_part, n_folds
from mmfeat.runs.run import Run
from mmfeat.store.feature_table import FeatureTable

_NUMBERS = 2**22  # of embeddings and tokens in memory at a time: about what a processor's cache holds


def seeds_logits(run: Run, table: FeatureTable, device: torch.device, fold: np.ndarray | None = None) -> np.ndarray:
    """Logits `(S, n, K)` of a table's rows by the head, or the heads, of each seed; classes are in the run's order.

    Parameters
    ----------
    fold : np.ndarray, optional
        `(n,)`, from :func:`mmfeat.inference.logits.held_out_folds`. A row of a fold gets the logits of the heads that held
        it out. All other rows, or all rows if None, get the mean over the heads of all folds.
    """
    heads = list(head_part(run).to(device).seeds)
    found = table_logits(heads, table, list(run.encoders), device=device, folds=n_folds(run.record), fold=fold)
    return found if run.columns is None else found.take(run.columns, axis=-1)


def table_logits(
    heads: Sequence[Head],
    table: FeatureTable,
    names: list[str],
    *,
    device: torch.device,
    folds: int = 1,
    fold: np.ndarray | None = None,
) -> np.ndarray:
    """Logits `(S, n, K)` of a table's rows by S x `folds` heads on the named encoders."""
    n_seeds, nothing = len(heads) // folds, np.zeros(0, dtype=int)
    logits = np.zeros((n_seeds, table.n_samples, heads[0].n_classes), np.float32)
    fold = np.full(table.n_samples, -1) if fold is None else fold
    size = max(1, _NUMBERS // sum(math.prod(x.shape[1:]) for x in (*table.embeddings.values(), *table.tokens.values())))
    for start, part in zip(range(0, table.n_samples, size), table.batches(size), strict=True):
        inputs, present = part.to(device, names)
        data = FitData(
            inputs=inputs,
            present=present,
            labels=torch.as_tensor(part.labels, device=device),
            numbers=nothing,
            train=nothing,
            val=nothing,
        )
        own = fold[start : start + size]
        for number in np.unique(own):
            its = np.flatnonzero(own == number)
            blind = heads if number < 0 else heads[number::folds]
            found = heads_logits(blind, data, None if len(its) == len(own) else its)
            logits[:, start + its] = found.reshape(n_seeds, -1, *found.shape[1:]).mean(1)
    return logits
