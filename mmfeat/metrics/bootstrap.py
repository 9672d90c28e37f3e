"""How far a figure would move with other rows: percentile bootstrap (Efron, 1979) of means over rows."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
_BLOCK = 2**24  # numbers drawn at a time, so that memory stays bounded


def bootstrap_mean(values: np.ndarray, n: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `(N,)` values under resampling of rows.

    Returns
    -------
    tuple of float
        Low and high end; both are the mean itself where all values are equal.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means, block = np.empty(n), max(1, _BLOCK // max(len(values), 1))
    for start in range(0, n, block):
        stop = min(n, start + block)
        rows = rng.integers(0, len(values), (stop - start, len(values)), dtype=np.int32)
        means[start:stop] = values[rows].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, n: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `a - b` over the same rows, and its 95 % interval."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(difference.mean()), *bootstrap_mean(difference, n, seed)
