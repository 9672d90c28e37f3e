"""The split that the data bring: names of splits or numbers of folds in a column, or files of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import UNLABELLED
from mmfeat.common.spelling import Spellings
from mmfeat.common.text import counted, nearest, quoted
from mmfeat.config.schema import Config, SplitConfig
from mmfeat.data.id_lists import read_ids
from mmfeat.data.tables.readers import Source

NO_FOLD = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenSplit:
    """The split of each row, as the user gives it.

    Attributes
    ----------
    names : np.ndarray
        `(N,)` object of `train`, `val`, `test` and `unlabelled`; empty for a row without one.
    folds : np.ndarray or None
        `(N,)` int16: the number of the row's fold, -1 for none. None without numbers.
    origin : str
        Where it comes from, for messages: `column 'fold'`, or `val.txt`.
    text : str
        The same with its meaning: `by column 'fold': fold 0 is val`.
    """

    names: np.ndarray
    folds: np.ndarray | None
    origin: str
    text: str


def given_split(config: Config, data: Source) -> GivenSplit | None:
    """The split that the data bring; None if `[split]` names neither a column nor files.

    Raises
    ------
    DataError
        A fold does not exist, or a file of ids cannot be read, names an unknown row, or a row of another file.
    """
    if config.split.column:
        return _of_column(config.split, data)
    return _of_files(config, data.ids) if config.split.files else None


def _of_column(settings: SplitConfig, data: Source) -> GivenSplit:
    cells = np.array(data.splits, dtype=object)
    origin = f"column {quoted(settings.column)}"
    numbers = np.array([int(cell) if cell.isdecimal() else NO_FOLD for cell in data.splits], dtype=np.int16)
    there = np.unique(numbers[numbers >= 0]).tolist()
    if not there:
        return GivenSplit(names=cells, folds=None, origin=origin, text=f"by {origin}")
    names = np.where(numbers >= 0, "train", cells).astype(object)
    meaning = []
    for split, fold in (("val", settings.val_fold), ("test", settings.test_fold)):
        if fold < 0:
            continue
        if fold not in there:
            known = ", ".join(map(str, there[:12])) + (" ..." if len(there) > 12 else "")
            option = f"--{split}-fold {next((n for n in there if n != settings.val_fold), there[0])}"
            raise DataError(
                f"{config_key(split)} = {fold}, and {origin} has the folds {known}. Set it to one of them: {option}"
            )
        names[numbers == fold] = split
        meaning.append(f"fold {fold} is {split}")
    text = f"by {origin}: {' and '.join(meaning) or 'no fold is val'} of {counted(len(there), 'fold')}"
    return GivenSplit(names=names, folds=numbers, origin=origin, text=text)


def config_key(split: str) -> str:
    """The setting that selects a split's fold."""
    return f"split.{split}_fold"


def _of_files(config: Config, ids: Sequence[str]) -> GivenSplit:
    """Rows that no file names are train; if there is a file of train rows, they are unlabelled."""
    rows, known = {sample: row for row, sample in enumerate(ids)}, Spellings(set(ids))
    files = config.split.files
    names = np.full(len(ids), UNLABELLED if "train" in files else "train", dtype=object)
    first: dict[int, Path] = {}
    for split, file in files.items():
        path = config.path(file)
        for number, sample in enumerate(_ids(path), 1):
            own = known.find(sample)
            if own is None:
                raise DataError(
                    f"{path}: id {number:,}, {quoted(sample)}, is no row of the source.{nearest(sample, ids)} "
                    f"Correct it, or leave it out"
                )
            row = rows[own]
            if first.setdefault(row, path) != path:
                raise DataError(f"{path}: row {quoted(own)} is in {first[row].name} too. Leave it out of one of them")
            names[row] = split
    origin = " and ".join(Path(file).name for file in files.values())
    return GivenSplit(names=names, folds=None, origin=origin, text=f"by {origin}")


def _ids(path: Path) -> list[str]:
    return read_ids(path, n_rows=-1)  # their number is not known
