"""Cards of samples for galleries: picture, caption, given and predicted labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.report.html.blocks import Card, Chip, Member
from mmfeat.report.html.rendering import figure

MOST_CHIPS = 12  # labels of a row that a card shows
NO_PICTURE = "no readable picture"


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """A model's predictions of some rows, `(n, K)` each; `rows` `(n,)` are their numbers in the manifest."""

    rows: np.ndarray
    probs: np.ndarray
    labels: np.ndarray

    def take(self, at: np.ndarray) -> Predicted:
        """Those at some positions."""
        return Predicted(rows=self.rows[at], probs=self.probs[at], labels=self.labels[at])


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """What cards show of the rows of a manifest.

    Attributes
    ----------
    ids, captions : np.ndarray
        `(N,)` object; empty captions are not shown.
    labels : np.ndarray
        `(N, K)` int8.
    pictures : dict of int to bytes
        JPEG files by row.
    missing : str
        What is shown in place of a picture that is not there.
    predicted : dict of int to (np.ndarray, np.ndarray)
        Probabilities and predicted labels `(K,)` by row.
    """

    ids: np.ndarray
    captions: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    pictures: dict[int, bytes]
    missing: str
    predicted: dict[int, tuple[np.ndarray, np.ndarray]]

    def card(self, row: int, reason: str = "", others: Sequence[int] = ()) -> Card:
        """A card of one row, or of several side by side."""
        return Card(members=tuple(self.member(one) for one in (row, *others)), reason=reason)

    def member(self, row: int, proposed: Sequence[str] | None = None) -> Member:
        """A row with its labels, and with labels that are proposed instead."""
        chips = [("given", self._given(row))] if (self.labels[row] >= 0).any() else []
        if proposed is not None:
            chips.append(("proposed", tuple(Chip(text=name) for name in proposed[:MOST_CHIPS])))
        if row in self.predicted:
            chips.append(("predicted", self._predicted(row)))
        return Member(
            id=str(self.ids[row]),
            caption=str(self.captions[row]),
            picture=self.pictures.get(row),
            missing=self.missing,
            chips=tuple(chips),
        )

    def _given(self, row: int) -> tuple[Chip, ...]:
        probs, labels = self.predicted.get(row, (None, None))
        chips = []
        for k in np.flatnonzero(self.labels[row] == 1).tolist():
            if labels is None or labels[k] == 1:
                chips.append(Chip(text=self.classes[k], kind="" if labels is None else "right"))
            else:
                chips.append(Chip(text=self.classes[k], kind="missed", value=figure(float(probs[k]), 2)))
        return _some(chips)

    def _predicted(self, row: int) -> tuple[Chip, ...]:
        probs, labels = self.predicted[row]
        kinds = {1: "right", 0: "wrong", -1: ""}
        order = np.argsort(-probs, kind="stable")
        return _some(
            [
                Chip(text=self.classes[k], kind=kinds[int(self.labels[row, k])], value=figure(float(probs[k]), 2))
                for k in order[labels[order] == 1].tolist()
            ]
        )


def _some(chips: list[Chip]) -> tuple[Chip, ...]:
    more = len(chips) - MOST_CHIPS
    return (*chips[:MOST_CHIPS], *([Chip(text=f"and {more:,} more")] if more > 0 else []))
