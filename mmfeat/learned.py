"""Which rows a model learned from, and which chose it, so that no figure is in-sample without saying so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.randomness import id_numbers


@dataclass(frozen=True, eq=False)
class Learned:
    """Rows by the 64-bit numbers of their ids, sorted: 8 MB for a million.

    Attributes
    ----------
    trained : np.ndarray
        `(n,)` uint64: rows that weights were fitted on, with labels or pseudo-labels, in any part of the model.
    chosen : np.ndarray
        `(m,)` uint64: rows that chose an epoch or a round of any part of it.
    """

    trained: np.ndarray
    chosen: np.ndarray

    @classmethod
    def of(cls, trained: Sequence[str], chosen: Sequence[str]) -> Learned:
        """From rows' ids."""
        return cls(np.unique(id_numbers(trained)), np.unique(id_numbers(chosen)))

    def __or__(self, other: Learned) -> Learned:
        """What two parts of one model learned from."""
        return Learned(np.union1d(self.trained, other.trained), np.union1d(self.chosen, other.chosen))

    def among(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each id is among the rows trained on, and among those that chose: `(N,)` bool each."""
        numbers = id_numbers(ids)
        return np.isin(numbers, self.trained), np.isin(numbers, self.chosen)


NOTHING = Learned(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
