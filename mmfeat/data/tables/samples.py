"""Turns the rows of tables into samples: ids, images, captions, labels and groups."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import encode
from mmfeat.common.spelling import look_the_same, normal_name
from mmfeat.common.text import counted, shown
from mmfeat.data.tables.coco import CocoTable
from mmfeat.data.tables.columns import Columns, as_list, find_columns, images_inside
from mmfeat.data.tables.label_cells import absent_of_names, apply_absent, indicator_labels, named_labels
from mmfeat.data.tables.split_cells import split_cells
from mmfeat.data.tables.table import Table

_SHOWN = 3  # ids in a message


@dataclass
class Source:
    """The samples of a source; :meth:`encoded` gives their labels.

    Attributes
    ----------
    labels : list of (list of str) or None
        Label names of each row, None for an unlabelled row; empty if `indicators` has the labels.
    indicators : np.ndarray or None
        `(N, K)` int8 of label columns, in the order of `columns["labels"]`: 1, 0, -1.
    absent : str
        How unlisted labels are treated: `negative` or `unknown`.
    groups : list of str
        The group of each row; empty without one.
    splits : list of str
        The split of each row in a column of splits: a name, or a fold's number; empty without one.
    classes : tuple of str
        The class list; without one, COCO's categories or the label columns, in order; otherwise all names, sorted (by
        number if all are integers).
    columns : dict of str to str or list of str
        The column, or columns, of each role (`id`, `image`, `caption`, `labels`, `group`, `split`); empty without one.
        Without a column of ids, ids are made from captions.
    settings : dict of str to str or list of str
        The same, as settings under `[data]` that read the source again.
    kind : str
        Description of the source, for people.
    notes : list of str
        Recovered cells and remarks, one line each.
    hints : list of str
        Hints for people, one line each.
    splits_cells : bool
        Whether cells were split into labels, so that the separator matters.
    n_recovered, n_damaged : int
        Number of records that were not valid CSV, and of captions with bytes that are not UTF-8.
    images_inside : str
        A column with embedded images, which are not read; empty without one.
    """

    kind: str
    columns: Columns
    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    labels: list[list[str] | None] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    indicators: np.ndarray | None = None
    absent: str = "negative"
    settings: Columns = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    splits_cells: bool = False
    n_recovered: int = 0
    n_damaged: int = 0
    images_inside: str = ""
    splits: list[str] = field(default_factory=list)

    def encoded(self, classes: Sequence[str]) -> np.ndarray:
        """The labels as `(N, K)` int8: 1 positive, 0 negative, -1 unknown; an unlabelled row is all -1.

        Raises
        ------
        KeyError
            A label is not among the classes.
        """
        if self.indicators is None:
            return encode(self.labels, classes)
        at = {name: k for k, name in enumerate(classes)}
        unlabelled = ~(self.indicators >= 0).any(1)
        labels = np.full((len(self.indicators), len(classes)), -1 if self.absent == "unknown" else 0, np.int8)
        labels[:, [at[normal_name(name)] for name in self.columns["labels"]]] = self.indicators
        labels[unlabelled] = -1
        return labels


class Reading:
    """Adds the rows of tables to a source.

    Parameters
    ----------
    given : mapping of str to str or sequence of str
        Columns named by the user, by role.
    closed : bool
        Whether there is a class list.
    chosen : bool
        Whether the user has chosen the separator.
    """

    def __init__(
        self,
        source: Source,
        given: Mapping[str, str | Sequence[str]],
        separator: str,
        *,
        closed: bool,
        chosen: bool = True,
    ) -> None:
        self.source, self._given, self._separator = source, given, separator
        self._closed, self._chosen = closed, chosen
        self._seen: dict[str, str] = {}
        self._repeats: Counter[str] = Counter()
        self._yes_no: list[np.ndarray] = []

    def add(self, table: Table, with_labels: bool = True) -> None:
        """Add a table's rows; without `with_labels` they are all unlabelled.

        Raises
        ------
        DataError
            A column is missing, an id is blank or repeated, or a cell is invalid.
        """
        source = self.source
        found = find_columns(table, self._given, need_labels=with_labels and not source.ids)
        self._keep_image_column(table, found)
        if not with_labels:
            found["labels"] = ""
        source.columns = source.columns or found
        source.images_inside = source.images_inside or images_inside(table, found)
        source.hints += table.hints
        self._note(table, _repair(table, found))
        captions = _captions(table, as_list(found["caption"]))
        source.ids += self._ids(table, str(found["id"]), captions)
        source.images += self._image_names(table, str(found["image"]))
        source.captions += captions
        source.groups += [normal_name(name) for name in self._cells(table, found["group"])]
        source.splits += split_cells(table, str(found["split"])) if "split" in found else [""] * table.n_rows
        labels = source.columns["labels"]
        if not isinstance(labels, str):
            self._yes_no.append(indicator_labels(table, labels))
        elif found["labels"]:
            options = {"closed": self._closed, "chosen": self._chosen}
            named = named_labels(table, str(found["labels"]), self._separator, **options)
            source.labels += named.rows
            source.hints += named.hints
            source.splits_cells = source.splits_cells or named.split
        else:
            source.labels += [None] * table.n_rows

    def _keep_image_column(self, table: Table, found: Columns) -> None:
        """Use the image column of the first table, which may have been found by its cells, for the others too."""
        first = str(self.source.columns.get("image", ""))
        if first and not found["image"] and first in table.header:
            found["image"] = first

    def finish(self, absent: str) -> None:
        """Apply the treatment of unlisted labels, and note ids that look alike."""
        alike = [] if all(map(str.isascii, self.source.ids)) else look_the_same(self.source.ids)
        if alike:
            a, b = map(ascii, alike[0])
            self.source.hints.append(
                f"  {counted(len(alike), 'id')} that {'looks' if len(alike) == 1 else 'look'} like another: "
                f"{shown(a)} and {shown(b)} are different rows"
            )
        if self._yes_no:
            self.source.indicators, self.source.absent = apply_absent(np.concatenate(self._yes_no), absent)
        else:
            self.source.absent = absent_of_names(absent)

    def _note(self, table: Table, damaged: list[int]) -> None:
        source = self.source
        notes = [(row, note) for row, note in table.notes.items()]
        notes += [(row, "bytes of the caption that are not UTF-8 became U+FFFD") for row in damaged]
        source.notes += [f"{table.place(row)}: {note}" for row, note in sorted(notes, key=lambda pair: pair[0])]
        source.notes += table.remarks if isinstance(table, CocoTable) else []
        source.n_recovered += len(table.notes)
        source.n_damaged += len(damaged)

    def _ids(self, table: Table, column: str, captions: list[str]) -> list[str]:
        """The ids of a table; without a column of ids, they are made from captions."""
        if not column:
            return [self._caption_id(caption) for caption in captions]
        ids, repeated = [cell.strip() for cell in table.texts(column)], []
        for row, sample in enumerate(ids):
            if not sample:
                raise DataError(f"{table.file}{table.where(row)}: the id in column {column!r} is blank")
            place = table.place(row)
            if sample in self._seen:
                repeated.append(f"{shown(repr(sample))} ({self._seen[sample]} and {place})")
            self._seen[sample] = place
        if repeated:
            more = f" and {len(repeated) - _SHOWN:,} more" if len(repeated) > _SHOWN else ""
            raise DataError(
                f"{table.file}: repeated ids: {', '.join(repeated[:_SHOWN])}{more}. Every row needs its own"
            )
        return ids

    def _caption_id(self, caption: str) -> str:
        """An id for a row without one: a digest of its caption, since row numbers change when rows are added."""
        digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._repeats[digest] += 1
        return digest if self._repeats[digest] == 1 else f"{digest}-{self._repeats[digest]}"

    def _image_names(self, table: Table, column: str) -> list[str]:
        """The images' names; the first one if a cell has several."""
        if not column or not any(isinstance(cell, list) for cell in table.column(column)):
            return [name.strip() for name in self._cells(table, column)]
        names = [text.strip().split("\n") for text in table.texts(column)]
        if several := sum(len(found) > 1 for found in names):
            rows = counted(several, "row")
            self.source.hints.append(f"  {rows} of {table.file.name} with several images: the first of each is used")
        return [found[0].strip() for found in names]

    @staticmethod
    def _cells(table: Table, column: str | list[str]) -> list[str]:
        return table.texts(str(column)) if column else [""] * table.n_rows


def _repair(table: Table, found: Columns) -> list[int]:
    """Make a table's text valid UTF-8; returns the rows whose captions were changed. Elsewhere, invalid bytes are an error."""
    used = [name for role in found for name in as_list(found[role])]
    return table.repair([name for name in as_list(found["caption"]) if used.count(name) == 1])


def _captions(table: Table, columns: list[str]) -> list[str]:
    """The captions; several columns are joined by line breaks, without blank cells."""
    if len(columns) == 1:
        return table.texts(columns[0])
    if not columns:
        return [""] * table.n_rows
    rows = zip(*(table.texts(name) for name in columns), strict=True)
    return ["\n".join(text for text in row if text.strip()) for row in rows]
