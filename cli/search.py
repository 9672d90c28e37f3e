"""`mmfeat search`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import open_project, overwrite_option, setting_options
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted


@click.command(
    "search",
    cls=Command,
    free=("caption", "like"),
    short_help="Find the rows most similar to a picture, a caption or a row.",
)
@click.argument("image", required=False, metavar="[PICTURE]")
@click.option("--like", default="", metavar="ID", help="A row of the project instead of a picture.")
@click.option("--caption", default="", metavar="TEXT", help="A text, which is compared with captions.")
@click.option(
    "--encoder", default="", metavar="NAME", help="The encoder to search by. [default: the first of each modality]"
)
@click.option(
    "--split",
    default="all",
    type=click.Choice(["all", "train", "val", "test", "unlabelled"]),
    help="The rows to search.",
)
@click.option("--n", "n", type=click.IntRange(1, 1000), default=12, show_default=True, help="Number of rows.")
@click.option("--html", default="", metavar="FILE", help="Also write a gallery of the rows as one HTML file.")
@setting_options(top=("engine", "device"))
@overwrite_option
@click.pass_context
def search_command(context: click.Context, image: str | None, **options: Any) -> None:
    """Find the rows that are most similar to PICTURE, to a caption, to both, or to a row of the project.

    Cached embeddings are compared by cosine. A new picture or caption is encoded as for mmfeat predict.
    """
    from mmfeat.common.text import shown
    from mmfeat.report.table_layout import Cell, number, outside, table
    from mmfeat.workflows.search import search

    project = open_project(context, options, ("engine", "device"))
    html = options.pop("html") or None
    result = search(project, image or "", html=html, **options)
    found = zip(result.ids, result.labels, result.splits, result.scores, result.captions, strict=True)
    rows = [
        [outside(id, 40), Cell(shown(" ".join(labels)) or "-", labels), split, number(score), outside(text, 80)]
        for id, labels, split, score, text in found
    ]
    echo(table(["id", "labels", "split", "score"], rows, left=3, title="similar rows", note="caption"))
    by = f"{counted(len(result.ids), 'row')} of {result.n_searched:,}, by {' and '.join(result.encoders)} (cosine)."
    made = f"Made {result.file}: {by}" if result.file else f"Found {by}"
    after = (
        "mmfeat report"
        if result.file
        else f"mmfeat search --like {result.ids[0]} --html similar.html"
        if result.ids
        else "mmfeat status"
    )
    echo_next(made, after)
