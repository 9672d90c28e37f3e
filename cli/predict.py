"""`mmfeat predict`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.command("predict", short_help="Write the labels of the unlabelled rows.")
@click.argument("run", required=False)
@click.option(
    "--split",
    default="unlabelled",
    type=click.Choice(["unlabelled", "val", "test", "train", "all"]),
    help="Which rows.",
)
@setting_options(
    ("predict.threshold", "A label needs a probability above it."),
    ("predict.empty", "Where nothing passes: most-probable, none."),
)
@click.pass_context
def predict_command(context: click.Context, run: str | None, split: str, **options: Any) -> None:
    """Predict with RUN, the best on val when none is named: submission.csv or predictions.csv, and probabilities."""
    from mmfeat.workflows.predict import predict

    project = open_project(context, options)
    result = predict(project, run, split)
    rule = project.config.predict
    empty = "got their most probable class" if rule.empty == "most-probable" else "got no label"
    chosen = f", {result.chosen}" if result.chosen else ""
    click.echo(
        f"run {result.run}{chosen}; threshold {rule.threshold:g}; {result.n_empty:,} rows had nothing above it and {empty}"
    )
    if result.n_unknown:
        click.echo(
            f"{result.n_unknown:,} rows have neither a readable image nor a caption: theirs is the commonest answer"
        )
    table, parquet = result.files
    echo_next(
        f"Made {table.name} ({result.n_rows:,} rows in the source's order) and {parquet.name} (probabilities).",
        "mmfeat runs",
    )
