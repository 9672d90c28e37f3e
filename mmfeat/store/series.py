"""The parts of one kind in an encoder's folder: its embeddings, or one size of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmfeat.store.commits import Commit
from mmfeat.store.rows import Found, MappedRows, RowIndex
from mmfeat.store.segments import StoredFile


class SegmentSeries:
    """Which files there are, and in which of them a row is.

    Attributes
    ----------
    kind : str
        As commits name it.
    files : list of StoredFile
        Every file ever opened; it only grows, so that a `Found` stays right.
    current : list of int
        Numbers of those that count now.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.files: list[StoredFile] = []
        self.current: list[int] = []
        self.index = RowIndex([], [], [])

    def update(self, commits: Sequence[Commit], open_file: Callable[[Commit], StoredFile | None]) -> None:
        """Bring the files up to date with the commits; `open_file` gives None for one that cannot be trusted."""
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
            newest = sorted(current, key=lambda number: -self.files[number].decoder)  # of copies the first counts
            files = [self.files[number] for number in newest]
            self.index = RowIndex([file.row_key for file in files], [file.is_error for file in files], newest)

    @property
    def current_files(self) -> list[StoredFile]:
        """The files that count now."""
        return [self.files[number] for number in self.current]

    def mapped(self, found: Found) -> MappedRows:
        """The large array's rows."""
        return MappedRows([file.values for file in self.files], found)

    def lengths(self, found: Found) -> np.ndarray:
        """How many tokens each row has, `(N,)` uint16; 0 where there is none."""
        lengths = np.zeros(len(found.part), np.uint16)
        for number in np.unique(found.part[found.good]):
            here = found.part == number
            lengths[here] = self.files[number].lengths[found.row[here]]
        return lengths
