"""Recognises columns by their cells: names of images, captions, labels, splits. Only the first rows are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator

from mmfeat.data.images.image_names import IMAGE_SUFFIXES
from mmfeat.data.tables.split_cells import looks_like_splits
from mmfeat.data.tables.table import Table

_ROWS = 1000  # that are looked at
_MOST = 0.9  # share of the filled cells that decides
_WORDS = 4  # of a caption, on average
_LABELS = 0.5  # distinct labels among all labels of the cells, at most
_BETWEEN = re.compile(r"\s*[|,;]\s*")


def image_columns(table: Table, used: Collection[str]) -> list[str]:
    """Columns of text whose cells end like names of image files."""

    def is_name(text: str) -> bool:
        return text.lower().endswith(IMAGE_SUFFIXES)

    return [name for name, texts in _texts(table, used) if sum(map(is_name, texts)) >= _MOST * len(texts)]


def candidates(table: Table, role: str, used: Collection[str]) -> list[str]:
    """Columns that may serve as `image`, `caption`, `labels` or `split`, best first."""
    if role == "image":
        return image_columns(table, used)
    if role == "split":
        return [name for name, texts in _texts(table, used) if looks_like_splits(texts)]
    images = image_columns(table, used)
    columns = [(name, texts) for name, texts in _texts(table, used) if name not in images]
    captions = {name: _words(texts) for name, texts in columns if _words(texts) >= _WORDS}
    if role == "caption":
        return sorted(captions, key=captions.__getitem__, reverse=True)
    if role == "labels":
        columns = [(name, texts) for name, texts in columns if name not in captions and not looks_like_splits(texts)]
        repeats = {name: _distinct(texts) for name, texts in columns}
        return sorted((name for name in repeats if repeats[name] <= _LABELS), key=repeats.__getitem__)
    return []


def _texts(table: Table, used: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Unused columns of text with their filled cells."""
    for name in table.plain:
        cells = [] if name in used else table.first_cells(name, _ROWS)
        texts = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
        if texts and not any(cell is not None and not isinstance(cell, str) for cell in cells):
            yield name, texts


def _words(texts: list[str]) -> float:
    return sum(len(_BETWEEN.sub("", text).split()) for text in texts) / len(texts)


def _distinct(texts: list[str]) -> float:
    """Distinct labels of cells, as a share of all labels; 1 if each cell has another text."""
    labels = Counter(label for text in texts for label in _BETWEEN.split(text) if label)
    return len(labels) / max(1, labels.total())
