"""The rows that are most similar to a sample: nearest cached embeddings by cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.audit.neighbours import nearest
from mmfeat.common.errors import ConfigError, DataError, EncoderError
from mmfeat.common.spelling import Spellings
from mmfeat.common.text import nearest as nearest_name
from mmfeat.common.text import quoted, shown
from mmfeat.encoders.kinds import modality_kind
from mmfeat.heads.knn import unit_embeddings
from mmfeat.inference.new_rows import NewRows, encoded_rows, one_row
from mmfeat.project.project import Project
from mmfeat.store.feature_table import FeatureTable


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is searched for: a picture, a caption, both, or a row of the project.

    Attributes
    ----------
    image : str
        Path of a picture.
    caption : str
        A text.
    like : str
        The id of a row.
    encoder : str
        The encoder to search by; if empty, the first one of each modality that the query has.
    """

    image: str = ""
    caption: str = ""
    like: str = ""
    encoder: str = ""

    def check(self) -> None:
        """Raise ConfigError if it names nothing, or a row beside a new sample."""
        if self.like and (self.image or self.caption):
            raise ConfigError("--like names a row of the project. Leave it out, or the picture and the caption")
        if not (self.like or self.image or self.caption.strip()):
            raise ConfigError("nothing to search for. Give a picture, --caption TEXT or --like ID")

    @property
    def modalities(self) -> list[str]:
        """The modalities of a new sample."""
        return [name for name, given in (("image", self.image), ("text", self.caption.strip())) if given]


@dataclass(frozen=True, kw_only=True, eq=False)
class SimilarRows:
    """Rows of the manifest, the most similar first.

    Attributes
    ----------
    rows : np.ndarray
        `(k,)` int64.
    scores : np.ndarray
        `(k,)` float32: cosines.
    encoders : list of str
        The encoders whose embeddings were compared.
    n_searched : int
        Rows with at least one of these embeddings.
    query : int
        The row of the query in the manifest; -1 for a new sample.
    sample : NewRows or None
        The new sample; None for a row of the manifest.
    """

    rows: np.ndarray
    scores: np.ndarray
    encoders: list[str]
    n_searched: int
    query: int
    sample: NewRows | None


def similar_rows(project: Project, query: Query, *, split: str = "all", n: int = 12) -> SimilarRows:
    """The rows of a split whose embeddings are nearest to those of the query; the query's own row is left out.

    Embeddings of several encoders have equal weight. A new sample is encoded into the store, as for predictions.

    Raises
    ------
    ConfigError
        The query names nothing, or an encoder of another modality.
    DataError
        There is no such row or picture, or it cannot be read.
    EncoderError
        The project has no encoder of the query's modality.
    MissingFeatures
        Embeddings are not in the store.
    """
    query.check()
    rows = project.manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to search. Use: --split all")
    own = _row_of(project, query.like) if query.like else -1
    names = _encoders(project, query)
    table = project.feature_table(names, np.append(rows, own) if own >= 0 else rows)
    if own >= 0:
        sample, points = None, _own_embeddings(project, table, names, own)
    else:
        sample, points = _embeddings(project, query, names)
    present = np.any([table.present[name][rows] for name in names], axis=0)
    rows = rows[present & (rows != own)]
    scores, found = nearest(_Unit(table, names, rows), points, min(n, len(rows)))
    kept = found[0] >= 0
    return SimilarRows(
        rows=rows[found[0][kept]],
        scores=scores[0][kept],
        encoders=names,
        n_searched=len(rows),
        query=own,
        sample=sample,
    )


class _Unit:
    """Embeddings of several encoders side by side, each of length 1, which are read when they are compared."""

    def __init__(self, table: FeatureTable, names: list[str], rows: np.ndarray) -> None:
        self.table, self.names, self.rows = table, names, rows
        self.shape = (len(rows), sum(table.widths[name] for name in names))

    def __getitem__(self, at: Any) -> np.ndarray:
        return unit_embeddings(self.table, self.names, self.rows[at])


def _row_of(project: Project, sample: str) -> int:
    ids = project.manifest.ids.tolist()
    name = Spellings(ids, "manifest.parquet: ").find(sample)
    if name is None:
        raise DataError(
            f"--like {shown(sample)}: no row has this id.{nearest_name(sample, ids)} Ids are those of {_id_column(project)}"
        )
    return ids.index(name)


def _id_column(project: Project) -> str:
    column = project.manifest.columns.get("id")
    return f"column {quoted(str(column))}" if column else "manifest.parquet"


def _encoders(project: Project, query: Query) -> list[str]:
    """The encoders to search by: those of the heads first, one of each modality of the query."""
    tables = project.config.encoder
    named = [*(name for name in project.config.fuse.inputs if name in tables), *tables]
    by_modality: dict[str, str] = {}
    for name in named:
        by_modality.setdefault(tables[name].modality, name)
    if query.encoder:
        if query.encoder not in tables:
            near = nearest_name(query.encoder, list(tables))
            raise EncoderError(
                f"--encoder {shown(query.encoder)}: no such encoder.{near} Encoders: {', '.join(tables)}"
            )
        modality = tables[query.encoder].modality
        if not query.like and modality not in query.modalities:
            raise ConfigError(
                f"--encoder {query.encoder} reads {modality_kind(modality).reads}, which the query does not have"
            )
        return [query.encoder]
    if query.like:
        return list(by_modality.values())
    for modality in query.modalities:
        if modality not in by_modality:
            what = modality_kind(modality).reads
            raise EncoderError(
                f"no encoder of the project reads {what}. Run: mmfeat encoders add NAME, or search by another query"
            )
    return [by_modality[modality] for modality in query.modalities]


def _own_embeddings(project: Project, table: FeatureTable, names: list[str], row: int) -> np.ndarray:
    if not any(table.present[name][row] for name in names):
        raise DataError(f"row {shown(project.manifest.ids[row])}: has no readable sample of {' or '.join(names)}")
    return unit_embeddings(table, names, np.array([row]))


def _embeddings(project: Project, query: Query, names: list[str]) -> tuple[NewRows, np.ndarray]:
    sample = one_row(query.image, query.caption)
    table, errors = encoded_rows(project, sample, {name: project.identity(name) for name in names})
    for name in names:
        if not table.present[name][0]:
            what = query.image if project.config.encoder[name].modality == "image" else "the caption"
            raise DataError(f"{what}: {errors.get(0, 'cannot be encoded')}")
    return sample, unit_embeddings(table, names, np.array([0]))
