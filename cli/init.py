"""`mmfeat init`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, overwrite_option
from mmfeat.cli.strict import Command


@click.command(
    "init", cls=Command, free=("separator",), short_help="Read, check and split the data; write mmfeat.toml."
)
@click.argument("source", required=False)
@click.option(
    "--images",
    multiple=True,
    metavar="PATH",
    help="Folder, zip or tar file of images, or a pattern with *. Repeatable.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="Column of the ids.")
@click.option("--image", "image_column", metavar="COLUMN", help="Column of the images' names.")
@click.option(
    "--caption",
    "caption_column",
    multiple=True,
    metavar="COLUMN",
    help="Column of the captions; repeated: all, joined.",
)
@click.option(
    "--labels",
    "labels_column",
    multiple=True,
    metavar="COLUMN",
    help="Column of label names; repeated: columns of 0, 1 and blank; of COCO: a category's name or id.",
)
@click.option(
    "--absent",
    type=click.Choice(["negative", "unknown"]),
    help="How labels that are not given are treated. [default: negative; unknown where columns of 0, 1 and blank hold a 0]",
)
@click.option("--group", "group_column", metavar="COLUMN", help="Column of groups: rows of one stand in one split.")
@click.option("--separator", metavar="TEXT", help="Between the labels of one cell. [default: a space]")
@click.option(
    "--classes", metavar="FILE", help="CSV table with a column label: the class list. [default: every label found]"
)
@click.option(
    "--val", type=float, metavar="SHARE", help="Share of labelled rows that choose epochs and runs. [default: 0.1]"
)
@click.option("--test", type=float, metavar="SHARE", help="Share that only evaluate --split test reads. [default: 0]")
@click.option("--seed", type=int, metavar="N", help="Fixes the split and everything random. [default: 0]")
@overwrite_option
@click.pass_context
def init_command(context: click.Context, source: str | None, **options: Any) -> None:
    """Make the current folder a project.

    SOURCE is a folder with train.csv and test.csv (a Kaggle task), COCO's instances_*.json or their folder, a CSV, TSV,
    Parquet, JSONL or Excel table, or a folder or pattern of Parquet files; images lie in folders, zip or tar files.
    Options only fill in mmfeat.toml; where it exists already, they must agree with it.
    """
    from mmfeat.workflows.init import init

    result = init(context.obj, source, **{name: value for name, value in options.items() if value not in (None, ())})
    click.echo(result.summary)
    if result.unchanged:
        echo_next("Nothing has changed: mmfeat.toml and manifest.parquet are as they were.", "mmfeat status")
    else:
        parts = [f"Wrote {', '.join(result.written)}."] if result.written else []
        parts += [f"Removed {', '.join(result.removed)}: there is nothing to note any more."] if result.removed else []
        echo_next(" ".join(parts), result.after)
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)
