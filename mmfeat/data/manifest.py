"""The manifest: one row for each sample, with its id, image, caption, labels and split."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmfeat.errors import DataError
from mmfeat.files import atomic_path
from mmfeat.labels import rows_of

FORMAT = 2  # 2: a role may have several columns


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
        """Write a Parquet file, whole or not at all; classes and format stand in its metadata."""
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
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            The file is damaged, or a newer mmfeat wrote it.
        """
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            version = int(metadata[b"mmfeat_format"])
            if version > FORMAT:
                raise DataError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")
            classes = tuple(json.loads(metadata[b"classes"]))
            columns = json.loads(metadata[b"columns"])
            ids, images, captions, split = (
                np.array(table[name].to_pylist(), dtype=object) for name in ("id", "image", "caption", "split")
            )
            labels = table["labels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            labels = labels.astype(np.int8).reshape(len(ids), len(classes))
            groups = np.array(table["group"].to_pylist(), dtype=object) if "group" in table.column_names else None
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            what = " ".join(str(error).split())[:100]
            raise DataError(f"{path}: damaged ({what}). Remove it and run: mmfeat init") from None
        return cls(ids, images, captions, labels, split, classes, columns, groups)


def _valid(text: str) -> str:
    """Text that Parquet can hold: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
