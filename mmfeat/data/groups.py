"""Groups: rows that must be in the same split because they share an image or a named group."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.text import shown

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False, kw_only=True)
class Groups:
    """Which rows must be in the same split.

    Attributes
    ----------
    numbers : np.ndarray
        `(N,)` int64 from 0: the group of each row.
    pictures : np.ndarray
        `(N,)` int64: the number of the row's image; -1 without an image.
    names : np.ndarray
        `(N,)` object of str: the row's group in the source; empty without one.
    """

    numbers: np.ndarray
    pictures: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        """Number of groups."""
        return int(self.numbers.max(initial=-1)) + 1

    def refuse_two_splits(self, ids: Sequence[str], known: Sequence[str]) -> None:
        """Check that no group has rows of two splits.

        Parameters
        ----------
        known : sequence of str
            For each row its current split, or an empty string.

        Raises
        ------
        DataError
            A group has rows of two splits; the message names the rows that link them, and what they share.
        """
        _, codes = np.unique(np.array(["", *known]), return_inverse=True)  # the empty string has code 0
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
            f"row {_named(ids, known, chain[0])} has {', which has '.join(links)}{more}: rows that share a picture or a group belong in one split. "
            f"Leave one of them out, give it another group, or remove manifest.parquet to split again"
        )

    def parted(self, splits: Sequence[str]) -> tuple[Groups, np.ndarray]:
        """Part every group that has rows of several splits: the rows of each split remain a group.

        Parameters
        ----------
        splits : sequence of str
            For each row its split, or an empty string. A row without one joins the last of its group's splits, so that a
            row near test never learns.

        Returns
        -------
        tuple of Groups and np.ndarray
            The groups, and the splits `(N,)` object, completed where a group was parted.
        """
        codes = np.array([SPLITS.index(split) if split else -1 for split in splits], dtype=np.int64)
        first, last = np.full(len(self), len(SPLITS)), np.full(len(self), -1)
        placed = np.flatnonzero(codes >= 0)
        np.minimum.at(first, self.numbers[placed], codes[placed])
        np.maximum.at(last, self.numbers[placed], codes[placed])
        torn = (first < last)[self.numbers]
        completed = np.array(splits, dtype=object)
        if not torn.any():
            return self, completed
        codes = np.where(torn & (codes < 0), last[self.numbers], codes)
        completed[torn] = np.array(SPLITS, dtype=object)[codes[torn]]
        sides = np.where(torn, codes, 0)
        pictures = np.where(self.pictures >= 0, self.pictures * len(SPLITS) + sides, -1)
        names = np.array(
            [f"{s} {name}" if name else "" for s, name in zip(sides, self.names, strict=True)], dtype=object
        )
        return Groups(numbers=_joined(pictures, names), pictures=self.pictures, names=self.names), completed

    def _chain(self, rows: list[int], known: Sequence[str]) -> list[int]:
        """The shortest chain of rows from one split to another in which each row shares something with the next."""
        sharing: dict[object, list[int]] = {}
        for row in rows:
            for what in self._marks(row):
                sharing.setdefault(what, []).append(row)
        start = next(known[row] for row in rows if known[row])
        came: dict[int, int | None] = {row: None for row in rows if known[row] == start}
        queue = list(came)
        for row in queue:  # the queue grows: breadth-first search
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
    """Group rows that share an image or a group name, directly or through other rows.

    Parameters
    ----------
    keys, present : np.ndarray
        Row keys `(N, 32)` uint8 (or other digests) of the images, and whether a row has an image, `(N,)` bool.
    names : sequence of str, optional
        The group of each row in the source; an empty string is no group.
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
    size = n + pictured + len(numbers)  # one node for each row, picture and name
    graph = coo_matrix((np.ones(len(rows), dtype=bool), (rows, to)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n].astype(np.int64)


def _named(ids: Sequence[str], known: Sequence[str], row: int) -> str:
    return f"{shown(repr(str(ids[row])))} ({known[row] or 'no split yet'})"
