"""Answers of a review, whatever file they come from: labels by id, with ids and classes that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfeat.common.errors import DataError
from mmfeat.common.spelling import Spellings
from mmfeat.common.text import counted, nearest, quoted


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers in a review.

    Attributes
    ----------
    given : dict of str to list of str
        Labels of each answered id, in the order of the classes; an empty list for a row without labels.
    n_blank : int
        Rows without an answer.
    """

    given: dict[str, list[str]]
    n_blank: int


class AnswerNames:
    """Finds the ids and classes that answers name, in any normal form.

    Parameters
    ----------
    ids, classes : sequence of str
        Those of the manifest.
    otherwise : str
        What may be done about an unknown id other than to correct it, for messages.
    """

    def __init__(self, ids: Sequence[str], classes: Sequence[str], *, otherwise: str) -> None:
        self._ids, self._classes, self._otherwise = ids, classes, otherwise
        self._known, self._order = Spellings(set(ids)), {name: k for k, name in enumerate(classes)}
        self._class_names = Spellings(self._order)
        self._places: dict[str, str] = {}

    def sample(self, where: str, place: str, *texts: str) -> str:
        """The id that one of these texts names.

        Parameters
        ----------
        where, place : str
            The file with the place in it, and the place alone, for messages.

        Raises
        ------
        DataError
            There is no such row, or it was named before.
        """
        try:
            found = next(filter(None, map(self._known.find, texts)), None)
        except DataError as error:
            raise DataError(f"{where}: the id {error}. Spell it as the manifest does") from None
        if found is None:
            text = texts[-1]
            what = f"no row {quoted(text)} in the manifest" if text else "the id is blank"
            raise DataError(f"{where}: {what}.{nearest(text, self._ids)} Correct it, or {self._otherwise}")
        if found in self._places:
            first = self._places[found]
            raise DataError(f"{where}: repeats the id {quoted(found)} of {first}. Leave one of them out")
        self._places[found] = place
        return found

    def labels(self, where: str, sample: str, names: Sequence[str]) -> list[str]:
        """The classes of these names, in class order.

        Raises
        ------
        DataError
            One of them is not a class.
        """
        found = []
        for name in names:
            try:
                known = self._class_names.find(name)
            except DataError as error:
                raise DataError(f"{where}: row {quoted(sample)}: the class {error}") from None
            if known is None:
                raise unknown_class(where, sample, name, classes=self._classes)
            found.append(known)
        return sorted(set(found), key=self._order.__getitem__)


def unknown_class(where: str, sample: str, name: str, *, classes: Sequence[str], hint: str = "") -> DataError:
    """The error about a name that is not a class."""
    return DataError(
        f"{where}: row {quoted(sample)}: {quoted(name)} is not among the {counted(len(classes), 'class', 'classes')}."
        f"{nearest(name, classes)}{hint}"
    )
