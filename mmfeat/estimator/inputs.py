"""Converts X and y of FusionClassifier to the arrays of a fit; invalid inputs raise ValueError."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from mmfeat.common.text import counted

_WHOLE = "x"  # the modality of an array with undivided columns

Ranges = dict[str, tuple[int, int]]  # start and stop of columns, by modality


def column_ranges(modalities: Mapping[str, Any] | None, width: int) -> Ranges:
    """The columns of each modality in a single array, from slices or (start, stop).

    Raises
    ------
    ValueError
        A name or a range is invalid.
    """
    if modalities is None:
        return {_WHOLE: (0, width)}
    found = {}
    for name, columns in modalities.items():
        try:
            part = columns if isinstance(columns, slice) else slice(*columns)
            start, stop = operator.index(part.start or 0), operator.index(width if part.stop is None else part.stop)
            fits = 0 <= start < stop <= width and part.step in (None, 1)
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"modalities[{name!r}] = {columns!r}: write (start, stop) of columns 0 to {width}")
        found[_named(name)] = (start, stop)
    if not found:
        raise ValueError("modalities is empty. Name one, or leave it out")
    return found


def joined(X: Mapping[str, Any], ranges: Ranges | None) -> tuple[np.ndarray, dict[str, np.ndarray], Ranges]:
    """Join the arrays of all modalities.

    Parameters
    ----------
    ranges : dict, optional
        Ranges of the fit; None during a fit.

    Returns
    -------
    tuple
        `(N, D)` float64 with zeros for missing modalities; presence `(N,)` bool by modality; and the ranges.

    Raises
    ------
    ValueError
        The modalities differ from those of the fit, or rows are invalid.
    """
    if ranges is None:
        read = {_named(name): _rows(name, values) for name, values in X.items()}
        ends = np.cumsum([0, *(values.shape[1] for values in read.values())]).tolist()
        ranges = {name: (ends[i], ends[i + 1]) for i, name in enumerate(read)}
    elif set(X) != set(ranges):
        raise ValueError(f"X has the modalities {list(X)}, the fit had {list(ranges)}")
    else:
        n = max((len(values) for values in X.values() if values is not None), default=0)
        read = {
            name: np.full((n, stop - start), np.nan) if X[name] is None else _rows(name, X[name], stop - start)
            for name, (start, stop) in ranges.items()
        }
    lengths = {name: len(values) for name, values in read.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise ValueError(f"X: all modalities need the same number of rows, at least 1; found {lengths}")
    width = max(stop for _, stop in ranges.values())
    whole = np.zeros((next(iter(lengths.values())), width))
    for name, (start, stop) in ranges.items():
        whole[:, start:stop] = np.nan_to_num(read[name], nan=0.0)
    return whole, {name: ~np.isnan(values).any(1) for name, values in read.items()}, ranges


def _named(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ValueError(f"a modality's name is letters, digits, - and _, found {name!r}")
    return name


def _rows(name: str, values: Any, width: int | None = None) -> np.ndarray:
    """One modality as `(N, D)` float64; missing rows are all NaN."""
    if values is None:
        raise ValueError(f"X[{name!r}] is None: a fit needs rows of every modality")
    if isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.dtype == object):
        lengths = {len(row) for row in values if row is not None}
        if len(lengths) == 1 and any(row is None for row in values):
            blank = [np.nan] * lengths.pop()
            values = [blank if row is None else row for row in values]
    found = check_array(values, dtype=np.float64, ensure_all_finite="allow-nan", input_name=f"X[{name!r}]")
    if width is not None and found.shape[1] != width:
        raise ValueError(f"X[{name!r}] has {found.shape[1]} features, the fit had {width}")
    lacking = np.isnan(found)
    partly = np.flatnonzero(lacking.any(1) & ~lacking.all(1))
    if len(partly):
        raise ValueError(
            f"X[{name!r}]: {counted(len(partly), 'row')} with NaN in some columns only (first: row {partly[0]})"
        )
    return found


def encoded(y: Any) -> tuple[str, np.ndarray, np.ndarray]:
    """The type of y, the classes, and labels `(N, K)` int8 of 1, 0 and -1.

    Returns
    -------
    tuple
        `multilabel`, column numbers, and y; `binary`, the two classes, and one column; or `multiclass`, the classes, and
        one column for each.

    Raises
    ------
    ValueError
        y has no labels, or only one class.
    """
    if y is None:
        raise ValueError("FusionClassifier requires y to be passed, but the target y is None")
    y = y.toarray() if issparse(y) else np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        if not np.isin(y, (-1, 0, 1)).all():
            raise ValueError("y: multi-label data are columns of 0, 1 and -1 (unknown). Unknown label type")
        return "multilabel", np.arange(y.shape[1]), y.astype(np.int8)
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    classes, at = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y: at least two classes are needed, found one class: {classes.tolist()}")
    if len(classes) == 2:
        return "binary", classes, at[:, None].astype(np.int8)
    return "multiclass", classes, (at[:, None] == np.arange(len(classes))).astype(np.int8)
