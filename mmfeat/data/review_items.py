"""Rows that a person is asked to look at, with the reasons: what a table, a page and other tools show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason to look at a row.

    Attributes
    ----------
    kind : str
        A few words that many reasons share, such as `uncertain` or `label errors`.
    text : str
        One short sentence.
    class_name : str
        The class that it is about; empty if it is about the row.
    related : tuple of str
        Ids of other rows, such as near-duplicates.
    """

    kind: str
    text: str
    class_name: str = ""
    related: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReviewItem:
    """A row of the manifest to look at.

    Attributes
    ----------
    row : int
        Its position in the manifest.
    image : str
        The path of its image, or its name in the source; empty without one.
    given, proposed : tuple of str or None
        Its positive labels now, and those that are proposed instead. None: no label is known; nothing is proposed.
    probabilities : dict of str to float
        Of the predicted and the likely classes, the most probable first.
    """

    id: str
    row: int
    image: str
    caption: str
    split: str
    given: tuple[str, ...] | None
    proposed: tuple[str, ...] | None
    reasons: tuple[Reason, ...]
    probabilities: dict[str, float]

    @property
    def why(self) -> str:
        """All reasons in one line."""
        return "; ".join(reason.text for reason in self.reasons)
