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
_LABELS_AT_ONCE = 1 << 24  # in a row group: Parquet takes several times their bytes to write and read them


@dataclass(frozen=True, eq=False)
class Manifest:
    """Samples in the order of their source.

    Attributes
    ----------
    ids, images, captions : np.ndarray
        `(N,)` object arrays of str; an empty string where there is no image or caption.
    labels : np.ndarray
        `(N, K)` int8: 1 yes, 0 no, -1 not known.
    split : np.ndarray
        `(N,)` object: `train`, `val` or `test`. An unlabelled row stands in train, unless an identical picture puts it
        elsewhere.
    columns : dict of str to str or list of str
        What the source calls `id`, `image`, `caption`, `labels` and `group`: a column, or several.
    groups : np.ndarray or None
        `(N,)` object of str: the group that the source gives, empty without one; None where no column gives any, or the
        manifest was written before groups were kept.
    """

    ids: np.ndarray
    images: np.ndarray
    captions: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    groups: np.ndarray | None = None

    @property
    def n_samples(self) -> int:
        """N."""
        return len(self.ids)

    def rows(self, which: str) -> np.ndarray:
        """Row numbers of `train`, `val`, `test` (labelled rows), `unlabelled` or `all`."""
        return rows_of(self.labels, self.split, which)

    def save(self, path: Path) -> None:
        """Write a sealed Parquet file, whole or not at all; classes and format stand in its metadata."""
        k = len(self.classes)
        labels = pa.FixedSizeListArray.from_arrays(pa.array(self.labels.ravel(), pa.int8()), k)
        names = ("id", "image", "caption", "split")
        texts = [
            pa.array(map(_valid, a.tolist()), pa.string()) for a in (self.ids, self.images, self.captions, self.split)
        ]
        table = pa.table({**dict(zip(names, texts, strict=True)), "labels": labels})
        if self.groups is not None:
            table = table.append_column("group", pa.array(map(_valid, self.groups.tolist()), pa.string()))
        metadata = {
            "mmfeat_format": str(FORMAT if any(isinstance(c, list) for c in self.columns.values()) else 1),
            "classes": json.dumps(self.classes),
            "columns": json.dumps(self.columns),
        }
        rows = max(1024, _LABELS_AT_ONCE // max(1, k))
        write_parquet(path, table, metadata, row_group_size=rows)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            The file is damaged, or a newer mmfeat wrote it.
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
            labels = _labels(table, len(classes))
            if not set(split.tolist()) <= {"train", "val", "test"}:
                raise ValueError("it has other splits than there are")
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(f"{path}: is not there. Run: mmfeat init") from None
        except Exception as error:  # without a seal it may hold anything
            raise DataError(f"{path}: damaged: {one_line(error)}. Remove it and run: mmfeat init") from None
        return cls(ids, images, captions, labels, split, tuple(classes), columns, groups)


def _texts(table: pq.ParquetFile, name: str) -> np.ndarray:
    """A column as `(N,)` object array of str."""
    column = table.read([name])[name]
    if column.null_count or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"column {name} holds other things than texts")
    return np.array(column.to_pylist(), dtype=object)


def _labels(table: pq.ParquetFile, k: int) -> np.ndarray:
    """The labels `(N, K)` int8, read one row group after another."""
    labels = np.empty((table.metadata.num_rows, k), np.int8)
    start = 0
    for group in range(table.num_row_groups):
        block = _values(table.read_row_group(group, ["labels"])["labels"].combine_chunks(), k)
        if block.size and (block.min() < -1 or block.max() > 1):
            raise ValueError("it has other labels than there are")
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
