"""The manifest: one row for each sample, with its id, image, caption, labels and split."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmfeat.common.errors import DataError, one_line
from mmfeat.common.json_shapes import misfit
from mmfeat.common.labels import rows_of
from mmfeat.common.sealed_parquet import open_parquet, write_parquet

FORMAT = 2  # 2: a role may have several columns
_LABELS_AT_ONCE = 1 << 24  # in a row group: Parquet needs several times their bytes to write and read them


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """Samples in the order of their source.

    Attributes
    ----------
    ids, images, captions : np.ndarray
        `(N,)` object arrays of str; an empty string without an image or caption.
    labels : np.ndarray
        `(N, K)` int8: 1 positive, 0 negative, -1 unknown.
    split : np.ndarray
        `(N,)` object: `train`, `val` or `test`. An unlabelled row is in train, unless it has the same image as a row of
        another split.
    columns : dict of str to str or list of str
        The columns of the source for `id`, `image`, `caption`, `labels` and `group`: one name, or several.
    groups : np.ndarray or None
        `(N,)` object of str: the row's group in the source, merged with that of groups.csv; empty without one. None without
        either, and in manifests from before groups were stored.
    folds : np.ndarray or None
        `(N,)` int16: the number of the row's fold in the source, -1 for none. None without numbers of folds.
    """

    ids: np.ndarray
    images: np.ndarray
    captions: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    @property
    def n_samples(self) -> int:
        """N."""
        return len(self.ids)

    def rows(self, which: str) -> np.ndarray:
        """Row numbers of `train`, `val`, `test` (labelled rows), `unlabelled` or `all`."""
        return rows_of(self.labels, self.split, which)

    def save(self, path: Path) -> None:
        """Write a sealed Parquet file atomically; its metadata holds the classes and the format."""
        k = len(self.classes)
        labels = pa.FixedSizeListArray.from_arrays(pa.array(self.labels.ravel(), pa.int8()), k)
        names = ("id", "image", "caption", "split")
        texts = [
            pa.array(map(_valid, a.tolist()), pa.string()) for a in (self.ids, self.images, self.captions, self.split)
        ]
        table = pa.table({**dict(zip(names, texts, strict=True)), "labels": labels})
        if self.groups is not None:
            table = table.append_column("group", pa.array(map(_valid, self.groups.tolist()), pa.string()))
        if self.folds is not None:
            table = table.append_column("fold", pa.array(self.folds, pa.int16()))
        metadata = {
            "mmfeat_format": str(FORMAT if any(isinstance(c, list) for c in self.columns.values()) else 1),
            "classes": json.dumps(self.classes),
            "columns": json.dumps(self.columns),
        }
        rows = max(1024, _LABELS_AT_ONCE // max(1, k))
        write_parquet(path, table, metadata, row_group_size=rows)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest that `save` wrote.

        Raises
        ------
        DataError
            The file is missing or damaged, or was written by a newer mmfeat.
        """
        try:
            table = open_parquet(path)
            metadata = table.schema_arrow.metadata or {}
            version = int(metadata[b"mmfeat_format"])
            if version > FORMAT:
                raise DataError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")
            classes, columns = json.loads(metadata[b"classes"]), json.loads(metadata[b"columns"])
            if why := misfit(classes, [str], "classes") or misfit(columns, {str: (str, [str])}, "columns"):
                raise ValueError(why)
            ids, images, captions, split = (_texts(table, name) for name in ("id", "image", "caption", "split"))
            groups = _texts(table, "group") if "group" in table.schema_arrow.names else None
            folds = _folds(table) if "fold" in table.schema_arrow.names else None
            labels = _labels(table, len(classes))
            if not set(split.tolist()) <= {"train", "val", "test"}:
                raise ValueError("it has unknown splits")
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(f"{path}: no such file. Run: mmfeat init") from None
        except Exception as error:  # a file without a seal may hold anything
            raise DataError(f"{path}: damaged: {one_line(error)}. Remove it and run: mmfeat init") from None
        return cls(
            ids=ids,
            images=images,
            captions=captions,
            labels=labels,
            split=split,
            classes=tuple(classes),
            columns=columns,
            groups=groups,
            folds=folds,
        )


def _texts(table: pq.ParquetFile, name: str) -> np.ndarray:
    """A column as `(N,)` object array of str."""
    column = table.read([name])[name]
    if column.null_count or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"column {name} holds values that are not text")
    return np.array(column.to_pylist(), dtype=object)


def _folds(table: pq.ParquetFile) -> np.ndarray:
    """The numbers of folds `(N,)` int16."""
    column = table.read(["fold"])["fold"]
    if column.null_count or column.type != pa.int16():
        raise ValueError("column fold holds values that are not numbers")
    return np.array(column.to_pylist(), dtype=np.int16)


def _labels(table: pq.ParquetFile, k: int) -> np.ndarray:
    """The labels `(N, K)` int8, read one row group after another."""
    labels = np.empty((table.metadata.num_rows, k), np.int8)
    start = 0
    for group in range(table.num_row_groups):
        block = _values(table.read_row_group(group, ["labels"])["labels"].combine_chunks(), k)
        if block.size and (block.min() < -1 or block.max() > 1):
            raise ValueError("it has labels other than 1, 0 and -1")
        labels[start : start + len(block)] = block
        start += len(block)
    if start != len(labels):
        raise ValueError(f"labels of {start} of {len(labels)} rows")
    return labels


def _values(lists: pa.Array, k: int) -> np.ndarray:
    """The values of lists of k as `(M, k)` int8; the array's own methods for it would import pyarrow.compute."""
    values = lists.values
    if (
        lists.null_count
        or values.null_count
        or values.type != pa.int8()
        or len(values) != len(lists) * k
        or lists.offset
    ):
        raise ValueError("it has labels that are no lists of so many numbers")
    return np.frombuffer(values.buffers()[1], np.int8)[values.offset :][: len(values)].reshape(-1, k)


def _valid(text: str) -> str:
    """Text that Parquet can hold: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
