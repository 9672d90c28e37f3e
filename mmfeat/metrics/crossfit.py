"""Cross-fitting: values for each row are fitted on other rows, so that its metrics are out of sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.randomness import mix

FOLDS = 5
_SALT = 0x666F6C64  # makes these folds independent of other random draws by id


def crossfit_folds(numbers: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Each row's fold, `(N,)` int64 from 0. Folds have equal sizes (to one row) and do not depend on the order of rows.

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
    *,
    numbers: np.ndarray,
    folds: int = FOLDS,
) -> np.ndarray:
    """For each row, the result of `fit(labels, outputs)` on the rows of the other folds, `(N, ...)`.

    Raises
    ------
    MmfeatError
        The arrays differ in length.
    """
    if not len(labels) == len(outputs) == len(numbers):
        raise MmfeatError(f"{len(labels)} rows of labels, {len(outputs)} of outputs and {len(numbers)} ids differ")
    fold = crossfit_folds(numbers, folds)
    fitted = np.stack([np.asarray(fit(labels[fold != f], outputs[fold != f])) for f in range(folds)])
    return fitted[fold]
