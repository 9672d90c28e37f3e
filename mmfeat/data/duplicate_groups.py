"""groups.csv of a project: rows that `init` keeps in one split, in addition to the groups of the source.

`mmfeat audit --apply groups` writes near-duplicates into it; a person may edit it. Columns: id and group.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.spelling import Spellings, normal_name
from mmfeat.common.text import quoted
from mmfeat.data.tables.delimited import read_records, repaired

FILE = "groups.csv"


def read_groups(file: Path, ids: Sequence[str]) -> np.ndarray | None:
    """The group of each row `(N,)` object, empty without one; None if the file does not exist. Ids of other rows are ignored.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or repeats an id.
    """
    if not file.exists():
        return None
    header, records = read_records(file)
    at = {name: _column(file, header, name) for name in ("id", "group")}
    row_of = {sample: row for row, sample in enumerate(ids)}
    known, lines = Spellings(row_of), {}
    groups = np.full(len(row_of), "", dtype=object)
    for record in repaired(file, records):
        where, text = f"{file}:{record.line}", record.cells[at["id"]].strip()
        try:
            sample = known.find(text)
        except DataError as error:
            raise DataError(f"{where}: the id {error}. Spell it as the source does") from None
        if sample is None:
            continue
        if sample in lines:
            raise DataError(f"{where}: repeats the id {quoted(sample)} of line {lines[sample]}. Leave one of them out")
        lines[sample] = record.line
        groups[row_of[sample]] = normal_name(record.cells[at["group"]])
    return groups


def groups_text(clusters: Iterable[Sequence[str]]) -> str:
    """The content of groups.csv for clusters of ids; a group has the name of its first id."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "group"))
    writer.writerows((sample, cluster[0]) for cluster in clusters for sample in cluster)
    return text.getvalue()


def merged_groups(own: Sequence[str], more: Sequence[str]) -> np.ndarray:
    """One group for all rows that are connected by groups of either kind, `(N,)` object; empty for a row without any.

    Parameters
    ----------
    own, more : sequence of str
        The groups of the source and of groups.csv. A merged group has the name of its first group of the source, or else of
        its first one of groups.csv.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, numbers = len(own), {}
    rows, columns = [], []
    for which, names in enumerate((own, more)):
        for row, name in enumerate(names):
            if name:
                rows.append(row)
                columns.append(n + numbers.setdefault((which, name), len(numbers)))
    size = n + len(numbers)
    graph = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(size, size))
    component = connected_components(graph, directed=False)[1]
    names_of: dict[int, str] = {}
    for (_, name), number in sorted(numbers.items(), key=lambda item: (item[0][0], item[1])):
        names_of.setdefault(int(component[n + number]), name)
    return np.array([names_of.get(number, "") for number in component[:n].tolist()], dtype=object)


def _column(file: Path, header: list[str], name: str) -> int:
    if (found := Spellings(header, f"{file}:1: column ").find(name)) is None:
        listed = ", ".join(quoted(one) for one in header[:12])
        raise DataError(f"{file}:1: no column {name!r}. Columns: {listed}. It needs two: id,group")
    return header.index(found)
