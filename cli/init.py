"""`mmfeat init`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import overwrite_option
from mmfeat.cli.printing import echo, echo_next, note
from mmfeat.cli.strict import Command

from mmfeat.config.presets import PRESETS


@click.command(
    "init", cls=Command, free=("separator",), short_help="Read, check and split the data, and write mmfeat.toml."
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
    help="Column of the captions. Several columns are joined. Repeatable.",
)
@click.option(
    "--labels",
    "labels_column",
    multiple=True,
    metavar="COLUMN",
    help="Column of label names. Several: columns of 0, 1 and blank. With COCO: names or ids of categories. Repeatable.",
)
@click.option(
    "--absent",
    type=click.Choice(["negative", "unknown"]),
    help="How unlisted labels are treated. unknown requires explicit negatives. [default: negative; unknown if columns of 0, 1 and blank hold a 0]",
)
@click.option(
    "--split-column",
    metavar="COLUMN",
    help="Column of a split of your own: train, val, test, unlabelled (also training, dev, eval ...), or numbers of folds.",
)
@click.option("--group", "group_column", metavar="COLUMN", help="Column of groups. Rows of one group go to one split.")
@click.option("--separator", metavar="TEXT", help="Separator of the labels in one cell. [default: a space]")
@click.option(
    "--classes",
    metavar="FILE",
    help="CSV table with the class list in a column named label. [default: every label found]",
)
@click.option(
    "--val",
    type=float,
    metavar="SHARE",
    help="Share of labelled rows for val, on which epochs and runs are selected. [default: 0.1]",
)
@click.option(
    "--test",
    type=float,
    metavar="SHARE",
    help="Share of labelled rows for test, which only evaluate --split test reads. [default: 0]",
)
@click.option(
    "--val-fold", type=int, metavar="N", help="The fold of --split-column that is val; -1 for none. [default: 0]"
)
@click.option(
    "--test-fold", type=int, metavar="N", help="The fold of --split-column that is test; -1 for none. [default: -1]"
)
@click.option("--val-ids", metavar="FILE", help="File with the ids of the val rows, instead of --split-column.")
@click.option("--test-ids", metavar="FILE", help="File with the ids of the test rows.")
@click.option(
    "--train-ids", metavar="FILE", help="File with the ids of the train rows; rows in no file are unlabelled."
)
@click.option("--image-encoder", metavar="MODEL", help="Image model of timm or torchvision. [default: efficientnet_b4]")
@click.option("--image-weights", metavar="FILE", help="Its weights: a .safetensors or .pth file, auto or random.")
@click.option(
    "--text-encoder",
    metavar="MODEL",
    help="Text model of transformers, by name or folder, or tfidf. [default: google/bert_uncased_L-2_H-128_A-2]",
)
@click.option("--text-weights", metavar="FILE", help="Its weights: a .safetensors or .pth file, auto or random.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Write the settings of a preset into mmfeat.toml. paper: those of the paper, for images and captions.",
)
@click.option("--seed", type=int, metavar="N", help="Seed of the split and of everything random. [default: 0]")
@overwrite_option
@click.pass_context
def init_command(context: click.Context, source: str | None, **options: Any) -> None:
    """Make the current folder a project.

    SOURCE is one of these: a folder with train.csv and test.csv (a Kaggle task); COCO's instances_*.json or their folder;
    a CSV, TSV, Parquet, JSONL or Excel table; a folder or pattern of Parquet files. Images are in folders, zip or tar
    files. Options are written into a new mmfeat.toml. If mmfeat.toml exists, they must agree with
    it; until somebody edits it, encodes or trains, init SOURCE with other options starts over.
    """
    from mmfeat.workflows.init import init

    result = init(context.obj, source, **{name: value for name, value in options.items() if value not in (None, ())})
    echo(result.summary)
    if result.unchanged:
        echo_next("Nothing has changed: mmfeat.toml and manifest.parquet are up to date.", "mmfeat status")
    else:
        parts = [f"Wrote {', '.join(result.written)}."] if result.written else []
        parts += [f"Removed {', '.join(result.removed)}, which would be empty."] if result.removed else []
        echo_next(" ".join(parts), result.after)
    for warning in result.warnings:
        note(f"Warning: {warning}")
