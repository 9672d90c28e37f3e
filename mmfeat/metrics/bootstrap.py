"""How far a figure would move with other rows: percentile bootstrap (Efron, 1979) of means over rows."""

from __future__ import annotations

import numpy as np

from mmfeat.errors import MmfeatError

RESAMPLES = 1000
_BLOCK = 2**22  # numbers drawn at a time, so that memory stays bounded


def bootstrap_mean(values: np.ndarray, n: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `(N,)` values under resampling of rows.

    How often each distinct value is drawn is multinomial, and rows' F1 take few values: so a million rows cost no more
    than a thousand, and the order of the rows does not matter.

    Returns
    -------
    tuple of float
        Low and high end; both are the mean itself where all values are equal.

    Raises
    ------
    MmfeatError
        There is no value, or one is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise MmfeatError(f"{len(values)} rows to resample, of which {np.isfinite(values).sum()} have a finite value")
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    means, block = np.empty(n), max(1, _BLOCK // len(distinct))
    for start in range(0, n, block):
        stop = min(n, start + block)
        draws = rng.multinomial(len(values), counts / len(values), stop - start)  # (resamples, distinct)
        means[start:stop] = draws / len(values) @ distinct
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, n: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `a - b` over the same rows, and its 95 % interval.

    Raises
    ------
    MmfeatError
        The two are not of the same rows.
    """
    if len(a) != len(b):
        raise MmfeatError(f"a paired difference needs the same rows on both sides, found {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(difference.mean()), *bootstrap_mean(difference, n, seed)
