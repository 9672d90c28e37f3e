"""Labels as arrays `(N, K)` int8: 1 yes, 0 no, -1 not known; and how probabilities become labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in the logits' own float type, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def decide(probs: np.ndarray, threshold: float | np.ndarray = 0.5, empty: str = "most-probable") -> np.ndarray:
    """Labels from probabilities (paper, section 3.1.3; P8).

    Parameters
    ----------
    probs : np.ndarray
        `(N, K)` in [0, 1].
    threshold : float or (K,) array
        A label needs a probability above it.
    empty : str
        Where no class passes: `most-probable` gives that one (the first of equals), `none` leaves the row empty.

    Returns
    -------
    np.ndarray
        `(N, K)` int8 of 0 and 1.
    """
    decided = (probs > threshold).astype(np.int8)
    if empty == "most-probable" and probs.shape[1]:
        rows = np.flatnonzero(~decided.any(1))
        decided[rows, probs[rows].argmax(1)] = 1
    return decided


def label_names(decided: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """The names of each row's labels, in the order of the classes."""
    names = np.asarray(classes, dtype=object)
    return [names[row == 1].tolist() for row in decided]


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


def rows_of(labels: np.ndarray, split: np.ndarray, which: str) -> np.ndarray:
    """Row numbers of `train`, `val`, `test` (rows with a known label), `unlabelled` or `all`."""
    labelled = (labels >= 0).any(1)
    if which == "all":
        return np.arange(len(labels))
    return np.flatnonzero(~labelled if which == "unlabelled" else labelled & (split == which))
