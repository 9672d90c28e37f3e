"""Lineage: the rows that a model was trained on and selected on, so that in-sample metrics are labelled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmfeat.common.labels import has_label
from mmfeat.common.randomness import id_numbers
from mmfeat.common.spelling import normal_name, spellings

_BLOCK = 1 << 14  # rows of labels that are hashed at a time


@dataclass(frozen=True)
class RowUse:
    """How a model used some rows: how many trained it, selected its epochs or rounds, and are out of fold."""

    n_rows: int
    n_trained: int
    n_selected: int
    n_out_of_fold: int


@dataclass(frozen=True, eq=False)
class Lineage:
    """The rows of a model, as sorted 64-bit hashes of their ids (8 MB for a million rows).

    Attributes
    ----------
    training : np.ndarray
        `(n,)` uint64: rows that any part of the model was fitted on, with labels or pseudo-labels.
    selection : np.ndarray
        `(m,)` uint64: rows that an epoch or a round of any part was selected on.
    out_of_fold : np.ndarray
        `(f,)` uint64: rows that some heads were trained on, but whose logits come only from heads that were not.
    taught : np.ndarray
        `(t, 2)` uint64: hashes of the ids and labels of rows that were learned with given labels. Empty in models of
        versions that did not record them.
    """

    training: np.ndarray
    selection: np.ndarray
    out_of_fold: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    taught: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint64))

    @classmethod
    def of(cls, training: Sequence[str], selection: Sequence[str], out_of_fold: Sequence[str] = ()) -> Lineage:
        """Lineage from the ids of rows."""
        return cls(*(np.unique(id_numbers(ids)) for ids in (training, selection, out_of_fold)))

    def __or__(self, other: Lineage) -> Lineage:
        """Lineage of a model with two parts."""
        names = ("training", "selection", "out_of_fold")
        united = (np.union1d(getattr(self, name), getattr(other, name)) for name in names)
        return Lineage(*united, np.unique(np.concatenate([self.taught, other.taught]), axis=0))

    def teaching(self, taught: np.ndarray) -> Lineage:
        """The same lineage, of a model that learned rows with their given labels; `taught` as by :func:`labelled_rows`.

        A row that was learned before with other labels counts with those that it is learned with now.
        """
        before = self.taught[~np.isin(self.taught[:, 0], taught[:, 0])]
        return dataclasses.replace(self, taught=np.unique(np.concatenate([before, taught]), axis=0))

    def relabelled(self, now: np.ndarray) -> np.ndarray:
        """Whether each row was learned with other labels than it has now, by any part: `(N,)` bool.

        Parameters
        ----------
        now : np.ndarray
            `(N, 2)`: the rows and their labels, as by :func:`labelled_rows`.
        """
        found = np.zeros(len(now), bool)
        if len(now):
            order = np.argsort(now[:, 0])
            at = order[np.searchsorted(now[:, 0], self.taught[:, 0], sorter=order).clip(max=len(order) - 1)]
            found[at[(now[at, 0] == self.taught[:, 0]) & (now[at, 1] != self.taught[:, 1])]] = True
        return found

    def among(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each id is a training row, and whether it is a selection row: `(N,)` bool each."""
        return _among(ids, self.training), _among(ids, self.selection)

    def use_of(self, ids: Sequence[str]) -> RowUse:
        """How a model used some rows."""
        trained, selected = self.among(ids)
        counts = (trained, selected, self.is_out_of_fold(ids))
        return RowUse(len(ids), *(int(rows.sum()) for rows in counts))

    def is_out_of_fold(self, ids: Sequence[str]) -> np.ndarray:
        """Whether each id is a row whose logits are out of fold in every part that was trained on it: `(N,)` bool."""
        return _among(ids, self.out_of_fold) & ~_among(ids, self.training)


def labelled_rows(ids: Sequence[str], labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Hashes of the ids and labels of rows, `(N, 2)` uint64."""
    return np.stack([id_numbers(ids), _label_numbers(labels, classes)], axis=1)


def _label_numbers(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Hash each row of labels `(N, K)` to 64 bits, `(N,)` uint64, for any order of the classes; 0 for an unlabelled row.

    Negatives do not count, so that a new class without a positive changes no row.
    """
    names = [normal_name(name) for name in classes]
    positive, unknown = (id_numbers([mark + name for name in names]) for mark in ("+", "?"))
    labelled = has_label(labels)
    found = labelled.astype(np.uint64)
    for start in range(0, len(labels), _BLOCK):
        block, part = labels[start : start + _BLOCK], found[start : start + _BLOCK]
        for value, numbers in ((1, positive), (-1, unknown)):
            rows, columns = np.nonzero((block == value) & labelled[start : start + _BLOCK, None])
            np.add.at(part, rows, numbers[columns])
    return found


def _among(ids: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Whether each id's hash is among the numbers, for any Unicode spelling of the id: `(N,)` bool."""
    is_member = np.isin(id_numbers(ids), numbers)
    respelled = [(row, name) for row, one in enumerate(ids) if not is_member[row] for name in spellings(str(one))[1:]]
    if respelled:
        rows = np.array([row for row, _ in respelled])
        is_member[rows[np.isin(id_numbers([name for _, name in respelled]), numbers)]] = True
    return is_member


NO_LINEAGE = Lineage(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
