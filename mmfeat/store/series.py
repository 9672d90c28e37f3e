"""The segments of one kind in an encoder's folder: its embeddings, or its tokens of one setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmfeat.store.commits import Commit
from mmfeat.store.rows import Found, MappedRows, RowIndex
from mmfeat.store.segments import StoredFile


class SegmentSeries:
    """The files of one kind, with an index of their rows.

    Attributes
    ----------
    kind : str
        The kind's name in commits.
    files : list of StoredFile
        Every file ever opened; the list only grows, so that a `Found` stays valid.
    current : list of int
        Indices of the files that count now.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.files: list[StoredFile] = []
        self.current: list[int] = []
        self.index = RowIndex([], [], [])

    def update(self, commits: Sequence[Commit], open_file: Callable[[Commit], StoredFile | None]) -> None:
        """Update the files to the commits; `open_file` returns None for a damaged file."""
        numbers = {file.name: number for number, file in enumerate(self.files)}
        current = []
        for commit in commits:
            if commit.kind != self.kind:
                continue
            if commit.file not in numbers:
                file = open_file(commit)
                if file is None:
                    continue
                numbers[commit.file] = len(self.files)
                self.files.append(file)
            current.append(numbers[commit.file])
        if current != self.current:
            self.current = current
            newest = sorted(
                current, key=lambda number: -self.files[number].decoder
            )  # of several copies, the first counts
            files = [self.files[number] for number in newest]
            self.index = RowIndex([file.row_key for file in files], [file.is_error for file in files], newest)

    @property
    def current_files(self) -> list[StoredFile]:
        """The files that count now."""
        return [self.files[number] for number in self.current]

    def mapped(self, found: Found) -> MappedRows:
        """The found rows of the large array."""
        return MappedRows([file.values for file in self.files], found)

    def lengths(self, found: Found) -> np.ndarray:
        """The number of tokens of each row, `(N,)` uint16; 0 for missing rows."""
        lengths = np.zeros(len(found.segment), np.uint16)
        for number in np.unique(found.segment[found.good]):
            here = found.segment == number
            lengths[here] = self.files[number].lengths[found.row[here]]
        return lengths
