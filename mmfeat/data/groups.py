"""Rows that stand in one split together: those with the same picture, those of one named group, and what these join."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.text import shown


@dataclass(frozen=True, eq=False, kw_only=True)
class Groups:
    """Which rows belong together.

    Attributes
    ----------
    numbers : np.ndarray
        `(N,)` int64 from 0 on: rows with the same number stand in one split.
    pictures : np.ndarray
        `(N,)` int64: rows with the same image share one; -1 without an image.
    names : np.ndarray
        `(N,)` object of str: the group that the source gives; empty without one.
    """

    numbers: np.ndarray
    pictures: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        """How many groups there are."""
        return int(self.numbers.max(initial=-1)) + 1

    def refuse_two_splits(self, ids: Sequence[str], known: Sequence[str]) -> None:
        """Check that no group has rows of two splits.

        Parameters
        ----------
        known : sequence of str
            For each row the split it has already, or an empty string.

        Raises
        ------
        DataError
            One has; the message names rows from the one split to the other, and what each shares with the next.
        """
        _, codes = np.unique(np.array(["", *known]), return_inverse=True)  # an empty string comes first
        placed = np.flatnonzero(codes[1:])
        first, last = np.full(len(self), len(codes)), np.zeros(len(self), dtype=np.int64)
        np.minimum.at(first, self.numbers[placed], codes[1:][placed])
        np.maximum.at(last, self.numbers[placed], codes[1:][placed])
        torn = np.flatnonzero(first < last)
        if not len(torn):
            return
        number = self.numbers[np.isin(self.numbers, torn)][0]
        chain = self._chain(np.flatnonzero(self.numbers == number).tolist(), known)
        links = [f"{self._shared(a, b)} as {_named(ids, known, b)}" for a, b in itertools.pairwise(chain)]
        more = f" ({len(torn) - 1:,} more like this)" if len(torn) > 1 else ""
        raise DataError(
            f"row {_named(ids, known, chain[0])} has {', which has '.join(links)}{more}: rows that share a picture or a group stand in one split. "
            f"Leave one of them out, give it another group, or remove manifest.parquet to split anew"
        )

    def _chain(self, rows: list[int], known: Sequence[str]) -> list[int]:
        """The fewest rows of one group that lead from one split to another, each sharing something with the next."""
        sharing: dict[object, list[int]] = {}
        for row in rows:
            for what in self._marks(row):
                sharing.setdefault(what, []).append(row)
        start = next(known[row] for row in rows if known[row])
        came: dict[int, int | None] = {row: None for row in rows if known[row] == start}
        queue = list(came)
        for row in queue:  # it grows: breadth first
            if known[row] not in ("", start):
                chain = [row]
                while (before := came[chain[-1]]) is not None:
                    chain.append(before)
                return chain[::-1]
            for what in self._marks(row):
                for other in sharing.pop(what, ()):
                    if other not in came:
                        came[other] = row
                        queue.append(other)
        raise AssertionError("rows of one number are not joined")

    def _marks(self, row: int) -> list[object]:
        picture, name = int(self.pictures[row]), self.names[row]
        return ([picture] if picture >= 0 else []) + ([name] if name else [])

    def _shared(self, a: int, b: int) -> str:
        if self.pictures[a] == self.pictures[b] >= 0:
            return "the same picture"
        return f"the same group {shown(repr(self.names[a]))}"


def groups_of(keys: np.ndarray, present: np.ndarray, names: Sequence[str] | None = None) -> Groups:
    """Rows that share an image, a group's name, or a row that shares one of these with each of them.

    Parameters
    ----------
    keys, present : np.ndarray
        Row keys of the images `(N, 32)` uint8 or other digests of them, and whether there is an image, `(N,)` bool.
    names : sequence of str, optional
        The group that the source gives each row; a row with an empty string has none.
    """
    n = len(present)
    pictures = np.full(n, -1, dtype=np.int64)
    rows = np.flatnonzero(present)
    if len(rows):
        _, pictures[rows] = np.unique(
            np.ascontiguousarray(keys[rows]).view(f"V{keys.shape[1]}").ravel(), return_inverse=True
        )
    names = np.array(names if names is not None else [""] * n, dtype=object)
    return Groups(numbers=_joined(pictures, names), pictures=pictures, names=names)


def _joined(pictures: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The connected components of rows that share a picture or a name, `(N,)` int64."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(pictures)
    named = np.flatnonzero(names != "")
    seen, pictured = np.flatnonzero(pictures >= 0), int(pictures.max(initial=-1)) + 1
    numbers: dict[str, int] = {}
    columns = np.array([numbers.setdefault(name, len(numbers)) for name in names[named]], dtype=np.int64)
    rows = np.concatenate([seen, named])
    to = n + np.concatenate([pictures[seen], pictured + columns])
    size = n + pictured + len(numbers)  # a node for each row, picture and name
    graph = coo_matrix((np.ones(len(rows), dtype=bool), (rows, to)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n].astype(np.int64)


def _named(ids: Sequence[str], known: Sequence[str], row: int) -> str:
    return f"{shown(repr(str(ids[row])))} ({known[row] or 'no split yet'})"
