"""Labels as `(N, K)` int8 arrays: 1 positive, 0 negative, -1 unknown; conversion to and from names and probabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.spelling import normal_name

_BLOCK = 1 << 24  # labels read at a time: bounds memory
UNLABELLED = "unlabelled"
EMPTY = ("most-probable", "none")  # labels of a row without a class above the threshold


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in the logits' own float type, without overflow.

    Very negative logits keep distinct probabilities (float32: down to -103), so that a row's top class remains defined.
    """
    small = np.exp(-np.abs(logits))  # in (0, 1]
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def decide(probs: np.ndarray, threshold: float | np.ndarray = 0.5, empty: str = "most-probable") -> np.ndarray:
    """Labels from probabilities (paper, section 3.1.3; P8).

    Parameters
    ----------
    probs : np.ndarray
        `(N, K)` in [0, 1].
    threshold : float, (K,), (N, 1) or (N, K) array
        A label needs a probability above it, compared in the type of `probs`.
    empty : str
        For a row without a class above the threshold: `most-probable` gives its top class (the first of equals), `none`
        no label.

    Returns
    -------
    np.ndarray
        `(N, K)` int8 of 0 and 1.

    Raises
    ------
    MmfeatError
        `empty` has another value.
    """
    if empty not in EMPTY:
        raise MmfeatError(f"empty = {str(empty)[:60]!r}: use one of: {', '.join(EMPTY)}")
    labels = (probs > np.asarray(threshold, dtype=probs.dtype)).astype(np.int8)
    if empty == "most-probable" and probs.shape[1]:
        rows = np.flatnonzero(~labels.any(1))
        labels[rows, probs[rows].argmax(1)] = 1
    return labels


def label_names(labels: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """The names of each row's positive labels, in the order of the classes."""
    rows, columns = np.nonzero(labels == 1)
    names = np.asarray(classes, dtype=object)[columns].tolist()
    ends = np.searchsorted(rows, np.arange(len(labels)), side="right").tolist()
    return [names[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def label_cells(
    labels: np.ndarray, classes: Sequence[str], columns: str | Sequence[str], separator: str
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of predicted labels `(N, K)` in the layout of the source: one column of names, or columns of 0 and 1.

    With columns of 0 and 1, the source's columns come first, under its names and in its order; classes that the source has
    no column for follow.
    """
    if isinstance(columns, str):
        return [columns or "labels"], [[separator.join(names)] for names in label_names(labels, classes)]
    own = {normal_name(name): name for name in columns}
    header = [own.get(normal_name(name), name) for name in classes]
    at = {name: k for k, name in enumerate(header)}
    in_source = set(columns)
    header = [name for name in columns if name in at] + [name for name in header if name not in in_source]
    return header, labels[:, [at[name] for name in header]].astype(str).tolist()


def split_labels(cell: str, separator: str) -> list[str]:
    """The label names of one cell in normal form, without repeats, in order."""
    names = map(normal_name, cell.split() if separator == " " else cell.split(separator))
    return list(dict.fromkeys(name for name in names if name))


def fitting_separator(classes: Sequence[str]) -> str:
    """A label separator that occurs in no class name: a space, if possible."""
    return next((mark for mark in (" ", ",", "|", ";") if not any(mark in name for name in classes)), "\t")


def class_order(names: Iterable[str]) -> list[str]:
    """Sort classes in the default order: by number if all are whole numbers, otherwise by name."""
    ordered = sorted(set(names), key=lambda name: (name.casefold(), name))
    return sorted(ordered, key=int) if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in ordered) else ordered


def class_positions(have: Sequence[str], want: Sequence[str]) -> np.ndarray | None:
    """The position in `have` of each class of `want`, so that columns `[:, positions]` are in the order of `want`.

    Names are compared as spelled, then by :func:`mmfeat.common.spelling.normal_name`.

    Returns
    -------
    np.ndarray or None
        `(K,)` int64; None if the two do not name the same classes.
    """
    if len(have) != len(want):
        return None
    for spelled in (str, normal_name):
        at = {spelled(name): k for k, name in enumerate(have)}
        if len(at) == len(have) and at.keys() == set(map(spelled, want)):
            return np.array([at[spelled(name)] for name in want], dtype=np.int64)
    return None


def encode(labels: Sequence[Sequence[str] | None], classes: Sequence[str]) -> np.ndarray:
    """Encode label names as `(N, K)` int8; a row that is None is unlabelled, so all its labels are -1.

    Raises
    ------
    KeyError
        A name is not a class.
    """
    column = {name: k for k, name in enumerate(classes)}
    encoded = np.zeros((len(labels), len(classes)), dtype=np.int8)
    for row, names in enumerate(labels):
        if names is None:
            encoded[row] = -1
        else:
            encoded[row, [column[name] for name in names]] = 1
    return encoded


def has_label(labels: np.ndarray) -> np.ndarray:
    """Which rows of `(N, K)` labels have at least one known label, `(N,)` bool."""
    return labels.max(axis=1, initial=-1) >= 0


def split_names(labels: np.ndarray, split: np.ndarray) -> np.ndarray:
    """The split of each row as exports name it: `unlabelled` for a row without a known label, whatever its split."""
    return np.where(has_label(labels), split, UNLABELLED).astype(object)


def positive_cells(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices of the positives of `(N, K)` labels, `(P,)` int64 each, in row order.

    Labels are read in blocks to avoid a temporary array of the size of the matrix.
    """
    step = max(1, _BLOCK // max(1, labels.shape[1]))
    found = [np.nonzero(labels[start : start + step] == 1) for start in range(0, len(labels), step)]
    rows = [block[0] + i * step for i, block in enumerate(found)]
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *rows]), np.concatenate([none, *(block[1] for block in found)])


def rows_of(labels: np.ndarray, split: np.ndarray, which: str) -> np.ndarray:
    """Row numbers of a selection, `(n,)` int64.

    Parameters
    ----------
    which : str
        `all`; `unlabelled` (no known label); or `train`, `val` or `test`, which select rows with a known label. Several
        splits are joined by `+`.
    """
    labelled = has_label(labels)
    if which == "all":
        return np.arange(len(labels))
    if which == UNLABELLED:
        return np.flatnonzero(~labelled)
    return np.flatnonzero(labelled & np.any([split == part for part in which.split("+")], axis=0))
