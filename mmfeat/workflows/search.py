"""`mmfeat search`: the rows that are most similar to a picture, a caption or another row, as a table or a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.errors import ConfigError, MmfeatError
from mmfeat.common.labels import has_label, label_names
from mmfeat.common.text import counted
from mmfeat.inference.page_pictures import page_pictures
from mmfeat.inference.run_galleries import samples_of
from mmfeat.inference.similar_rows import Query, SimilarRows, similar_rows
from mmfeat.project.project import Project
from mmfeat.report.html.blocks import Block, Card, Facts, Gallery, Member, Page, Section, Text
from mmfeat.report.html.pages import page_html, page_path
from mmfeat.report.html.rendering import figure
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult

MOST = 1000  # rows of an answer


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchResult(TableResult):
    """The most similar rows, the nearest first.

    Attributes
    ----------
    ids, captions, splits : list of str
        Of the rows that were found; a row without labels has the split `unlabelled`.
    scores : list of float
        Cosine similarities.
    labels : list of list of str
        Positive labels.
    encoders : list of str
        The encoders whose embeddings were compared.
    n_searched : int
        Rows that were searched.
    file : Path or None
        The gallery.
    """

    ids: list[str]
    scores: list[float]
    captions: list[str]
    labels: list[list[str]]
    splits: list[str]
    encoders: list[str]
    n_searched: int
    file: Path | None

    def _about(self) -> str:
        return f"{len(self.ids):,} of {counted(self.n_searched, 'row')}, by {' and '.join(self.encoders)}"

    def _table(self) -> list[Record]:
        columns = zip(self.ids, self.scores, self.labels, self.splits, self.captions, strict=True)
        return [dict(zip(("id", "score", "labels", "split", "caption"), row, strict=True)) for row in columns]


def search(
    project: Project,
    image: Path | str = "",
    *,
    like: str = "",
    caption: str = "",
    encoder: str = "",
    split: str = "all",
    n: int = 12,
    html: Path | str | None = None,
    overwrite: bool = False,
) -> SearchResult:
    """Find the rows that are most similar to a picture, a caption, both, or a row of the project.

    Parameters
    ----------
    image : Path
        A picture.
    like : str
        The id of a row.
    caption : str
        A text, which is compared with captions.
    encoder : str
        The encoder to search by; if empty, the first of each modality of the query.
    split : str
        `all`, `train`, `val`, `test` or `unlabelled`.
    n : int
        Number of rows.
    html : Path, optional
        A file for a gallery of the rows.
    overwrite : bool
        Whether to replace a file that mmfeat did not write or that was changed since.

    Raises
    ------
    ConfigError, DataError, EncoderError, MissingFeatures
        As :func:`mmfeat.inference.similar_rows.similar_rows`.
    OutputError
        The file must not be replaced.
    """
    query = Query(image=str(image), like=like, caption=caption, encoder=encoder)
    if not 1 <= n <= MOST:
        raise ConfigError(f"n = {n}: use a number from 1 to {MOST:,}")
    file = None if html is None else page_path("--html", html)
    outputs = Outputs(project.config, [str(image)] if image else [], overwrite)
    if file is not None:
        outputs.check(file)  # before any work
    found = similar_rows(project, query, split=split, n=n)
    if file is not None:
        outputs.write(file, page_html(_page(project, query, found)))
    return _result(project, found, file)


def _result(project: Project, found: SimilarRows, file: Path | None) -> SearchResult:
    manifest, rows = project.manifest, found.rows
    labelled = has_label(manifest.labels[rows])
    return SearchResult(
        ids=manifest.ids[rows].tolist(),
        scores=found.scores.astype(float).tolist(),
        captions=manifest.captions[rows].tolist(),
        labels=label_names(manifest.labels[rows], manifest.classes),
        splits=np.where(labelled, manifest.split[rows], "unlabelled").tolist(),
        encoders=found.encoders,
        n_searched=found.n_searched,
        file=file,
    )


def _page(project: Project, query: Query, found: SimilarRows) -> Page:
    """The gallery of an answer: the query, and the rows with their scores."""
    own = [found.query] if found.query >= 0 else []
    pictures = page_pictures(project, [*own, *found.rows.tolist()])
    samples = samples_of(project, pictures)
    if own:
        asked = samples.card(found.query)
    else:
        pixels = _picture_of_query(project, found) if query.image else None
        missing = "no readable picture" if query.image else "no picture"
        name = Path(query.image).name if query.image else "caption"
        asked = Card(members=(Member(id=name, caption=query.caption, picture=pixels, missing=missing),))
    cards = [
        samples.card(row, f"{figure(score)}")
        for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
    ]
    facts = (("searched", counted(found.n_searched, "row")), ("by", " and ".join(found.encoders)))
    blocks: Sequence[Block] = [Text(text=pictures.note, kind="note")] if pictures.note else []
    return Page(
        title="Most similar rows",
        eyebrow=f"Search of the project {project.root.name}",
        sections=(
            Section.of("query", "Query", [Gallery(cards=(asked,)), Facts(pairs=facts)]),
            Section.of(
                "found",
                "Found",
                [
                    Text(text="The number is the cosine of the embeddings, 1 for the same."),
                    *blocks,
                    Gallery(cards=tuple(cards)),
                ],
            ),
        ),
    )


def _picture_of_query(project: Project, found: SimilarRows) -> bytes | None:
    """The thumbnail of a new picture."""
    try:
        new = project.derived(samples=found.sample.samples(project, found.sample.images))
        return page_pictures(new, [0]).jpegs.get(0)
    except (MmfeatError, OSError):
        return None
