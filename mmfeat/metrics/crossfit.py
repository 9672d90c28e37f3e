"""Cross-fitting: what is fitted for each row comes from other rows, so that its figures are out of sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.randomness import mix

FOLDS = 5
_SALT = 0x666F6C64  # no other use of the ids' numbers orders rows alike


def folds_of(numbers: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Each row's fold, `(N,)` int64 from 0; as many rows in each as can be, whatever the order of the rows.

    Parameters
    ----------
    numbers : np.ndarray
        `(N,)` uint64 from :func:`mmfeat.common.randomness.id_numbers`.
    """
    order = np.lexsort((numbers, mix(numbers, _SALT)))
    found = np.empty(len(numbers), np.int64)
    found[order] = np.arange(len(numbers)) % folds
    return found


def crossfitted(
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    outputs: np.ndarray,
    numbers: np.ndarray,
    folds: int = FOLDS,
) -> np.ndarray:
    """For each row what `fit(labels, outputs)` gives on the rows of the other folds, `(N, ...)`.

    Raises
    ------
    MmfeatError
        The arrays are not of the same rows.
    """
    if not len(labels) == len(outputs) == len(numbers):
        raise MmfeatError(f"{len(labels)} rows of labels, {len(outputs)} of outputs and {len(numbers)} ids differ")
    fold = folds_of(numbers, folds)
    fitted = np.stack([np.asarray(fit(labels[fold != f], outputs[fold != f])) for f in range(folds)])
    return fitted[fold]
