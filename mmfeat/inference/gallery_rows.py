"""The rows that a report shows: the surest errors by class, the most uncertain, those whose modalities disagree most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.inference.row_ranking import (
    about_contradiction,
    contradiction,
    disagreement,
    shortlist,
    spread,
    uncertainty,
)

ERRORS, CLASSES = 240, 40  # cards of errors, and classes that have some
_PER_CLASS = (4, 12)  # cards of a class, at least and at most
_COMPARED = 1000  # rows that are compared with one another to skip duplicates


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A row of the arrays that it was picked from, and why."""

    at: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ClassErrors:
    """The errors of a class: how many labels were missed and wrongly predicted, and the surest of them."""

    name: str
    n_missed: int
    n_wrong: int
    picks: tuple[Pick, ...]


def surest_errors(
    labels: np.ndarray, probs: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> list[ClassErrors]:
    """The errors that a model is surest of, for the classes with most errors.

    Parameters
    ----------
    labels, predicted : np.ndarray
        `(n, K)` int8; unknown labels are no errors.
    probs : np.ndarray
        `(n, K)` probabilities.
    """
    missed, wrong = (labels == 1) & (predicted != 1), (labels == 0) & (predicted == 1)
    n_errors = (missed | wrong).sum(0)
    order = np.argsort(-n_errors, kind="stable")[:CLASSES]
    order = order[n_errors[order] > 0]
    least, most = _PER_CLASS
    each = min(max(ERRORS // max(len(order), 1), least), most)
    found = []
    for k in order.tolist():
        column = slice(k, k + 1)
        sure = contradiction(probs[:, column], predicted[:, column], labels[:, column])[:, 0]
        top = np.argsort(-sure, kind="stable")[: min(each, int(n_errors[k]))]
        picks = [
            Pick(at=at, reason=about_contradiction(classes[k], missed[at, k], probs[at, k])) for at in top.tolist()
        ]
        n_missed, n_wrong = int(missed[:, k].sum()), int(wrong[:, k].sum())
        found.append(ClassErrors(name=classes[k], n_missed=n_missed, n_wrong=n_wrong, picks=tuple(picks)))
    return found


def most_uncertain(
    probs: np.ndarray, threshold: float | np.ndarray, classes: Sequence[str], *, numbers: np.ndarray, n: int
) -> list[Pick]:
    """The rows nearest to their thresholds, without near-duplicates.

    Parameters
    ----------
    numbers : np.ndarray
        `(n,)`, one for each id, which break ties.
    """
    bits = uncertainty(probs, threshold)
    at = np.broadcast_to(np.asarray(threshold, np.float64), probs.shape)
    picks = []
    for row in _spread(bits.sum(1), probs, numbers, n):
        k = int(bits[row].argmax())
        picks.append(Pick(at=row, reason=f"{classes[k]}: {probs[row, k]:.2f}, threshold {at[row, k]:.2f}"))
    return picks


def most_disagreeing(
    alone: dict[str, np.ndarray], known: dict[str, np.ndarray], classes: Sequence[str], *, numbers: np.ndarray, n: int
) -> list[Pick]:
    """The rows about which the encoders disagree most, without near-duplicates.

    Parameters
    ----------
    alone : dict of str to np.ndarray
        Probabilities `(n, K)` by each encoder alone.
    known : dict of str to np.ndarray
        `(n,)` bool: whether the row has the encoder's modality.
    """
    probs, there = np.stack(list(alone.values())), np.stack(list(known.values()))
    bits = disagreement(probs, there)
    picks = []
    for row in _spread(bits.sum(1), np.concatenate(list(alone.values()), axis=1), numbers, n):
        k = int(bits[row].argmax())
        says = [f"{name} says {one[row, k]:.2f}" for name, one in alone.items() if known[name][row]]
        picks.append(Pick(at=row, reason=f"{classes[k]}: {', '.join(says)}"))
    return picks


def _spread(worth: np.ndarray, points: np.ndarray, numbers: np.ndarray, n: int) -> list[int]:
    listed = shortlist(worth, numbers, _COMPARED)
    return listed[spread(worth[listed], points[listed].astype(np.float32), n)].tolist()
