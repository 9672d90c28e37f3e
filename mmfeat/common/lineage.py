"""Which rows a model learned from, and which chose it, so that no figure is in-sample without saying so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmfeat.common.randomness import id_numbers
from mmfeat.common.spelling import spellings


@dataclass(frozen=True, eq=False)
class Lineage:
    """Rows by the 64-bit numbers of their ids, sorted: 8 MB for a million.

    Attributes
    ----------
    trained : np.ndarray
        `(n,)` uint64: rows that weights were fitted on, with labels or pseudo-labels, in any part of the model.
    chosen : np.ndarray
        `(m,)` uint64: rows that chose an epoch or a round of any part of it.
    folded : np.ndarray
        `(f,)` uint64: rows that some of its heads were trained on, but none of those whose logits stand for the row.
    """

    trained: np.ndarray
    chosen: np.ndarray
    folded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    @classmethod
    def of(cls, trained: Sequence[str], chosen: Sequence[str], folded: Sequence[str] = ()) -> Lineage:
        """From rows' ids."""
        return cls(*(np.unique(id_numbers(ids)) for ids in (trained, chosen, folded)))

    def __or__(self, other: Lineage) -> Lineage:
        """What two parts of one model learned from."""
        parts = ("trained", "chosen", "folded")
        return Lineage(*(np.union1d(getattr(self, part), getattr(other, part)) for part in parts))

    def among(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each id is among the rows trained on, and among those that chose: `(N,)` bool each."""
        return _among(ids, self.trained), _among(ids, self.chosen)

    def out_of_fold(self, ids: Sequence[str]) -> np.ndarray:
        """Whether each id is of a row whose logits are out of fold in every part that was trained on it: `(N,)` bool."""
        return _among(ids, self.folded) & ~_among(ids, self.trained)


def _among(ids: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Whether each id is among the numbers, as it is spelled now or as a source may have spelled it: `(N,)` bool."""
    found = np.isin(id_numbers(ids), numbers)
    others = [(row, name) for row, one in enumerate(ids) if not found[row] for name in spellings(str(one))[1:]]
    if others:
        rows = np.array([row for row, _ in others])
        found[rows[np.isin(id_numbers([name for _, name in others]), numbers)]] = True
    return found


NO_LINEAGE = Lineage(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
