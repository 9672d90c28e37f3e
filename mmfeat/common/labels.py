"""Labels as arrays `(N, K)` int8: 1 positive, 0 negative, -1 unknown; and labels from probabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.spelling import normal_name

_BLOCK = 1 << 24  # labels looked at together
EMPTY = ("most-probable", "none")  # labels of a row without a class above the threshold


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in the logits' own float type, without overflow.

    Very negative logits stay apart (float32: down to -103), so that a row's most probable class can still be told.
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
        `empty` is neither of the two.
    """
    if empty not in EMPTY:
        raise MmfeatError(f"empty = {str(empty)[:60]!r}: use one of: {', '.join(EMPTY)}")
    labels = (probs > np.asarray(threshold, dtype=probs.dtype)).astype(np.int8)
    if empty == "most-probable" and probs.shape[1]:
        rows = np.flatnonzero(~labels.any(1))
        labels[rows, probs[rows].argmax(1)] = 1
    return labels


def label_names(labels: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """The names of each row's labels, in the order of the classes."""
    rows, columns = np.nonzero(labels == 1)
    names = np.asarray(classes, dtype=object)[columns].tolist()
    ends = np.searchsorted(rows, np.arange(len(labels)), side="right").tolist()
    return [names[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def label_cells(
    labels: np.ndarray, classes: Sequence[str], columns: str | Sequence[str], separator: str
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of predicted labels `(N, K)` in the form of a source: a column of names, or columns of 0 and 1.

    There is a column for each class: first those of the source, with its names and in its order, then the classes
    without a column there.
    """
    if isinstance(columns, str):
        return [columns or "labels"], [[separator.join(names)] for names in label_names(labels, classes)]
    own = {normal_name(name): name for name in columns}
    header = [own.get(normal_name(name), name) for name in classes]
    at = {name: k for k, name in enumerate(header)}
    there = set(columns)
    header = [name for name in columns if name in at] + [name for name in header if name not in there]
    return header, labels[:, [at[name] for name in header]].astype(str).tolist()


def split_labels(cell: str, separator: str) -> list[str]:
    """The names in one cell in their normal form, each once, in order."""
    names = map(normal_name, cell.split() if separator == " " else cell.split(separator))
    return list(dict.fromkeys(name for name in names if name))


def fitting_separator(classes: Sequence[str]) -> str:
    """A separator of the labels in one cell that occurs in no class name: a space, if possible."""
    return next((mark for mark in (" ", ",", "|", ";") if not any(mark in name for name in classes)), "\t")


def class_order(names: Iterable[str]) -> list[str]:
    """Classes in the default order: by number where all are whole numbers, else by name."""
    ordered = sorted(set(names), key=lambda name: (name.casefold(), name))
    return sorted(ordered, key=int) if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in ordered) else ordered


def class_positions(have: Sequence[str], want: Sequence[str]) -> np.ndarray | None:
    """Where `have` has each class of `want`, `(K,)`: columns `[:, positions]` are in their order; None where names differ.

    Names that are spelled differently are the same where their normal forms are.
    """
    if len(have) != len(want):
        return None
    for spelled in (str, normal_name):
        at = {spelled(name): k for k, name in enumerate(have)}
        if len(at) == len(have) and at.keys() == set(map(spelled, want)):
            return np.array([at[spelled(name)] for name in want], dtype=np.int64)
    return None


def encode(labels: Sequence[Sequence[str] | None], classes: Sequence[str]) -> np.ndarray:
    """Label names to `(N, K)` int8; a row that is None is unlabelled: -1 throughout.

    Raises
    ------
    KeyError
        A name is not among the classes.
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


def positive_cells(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the positives of `(N, K)` labels, int64 `(P,)` each, in the order of the rows.

    The labels are read in blocks, so that nothing of the size of the matrix is made.
    """
    step = max(1, _BLOCK // max(1, labels.shape[1]))
    found = [np.nonzero(labels[start : start + step] == 1) for start in range(0, len(labels), step)]
    rows = [block[0] + i * step for i, block in enumerate(found)]
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *rows]), np.concatenate([none, *(block[1] for block in found)])


def rows_of(labels: np.ndarray, split: np.ndarray, which: str) -> np.ndarray:
    """Row numbers of `train`, `val`, `test` (rows with a known label; several with `+` between), `unlabelled` or `all`."""
    labelled = has_label(labels)
    if which == "all":
        return np.arange(len(labels))
    if which == "unlabelled":
        return np.flatnonzero(~labelled)
    return np.flatnonzero(labelled & np.any([split == part for part in which.split("+")], axis=0))
