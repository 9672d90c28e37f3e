"""`mmfeat fuse`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options

KEYS = (
    ("fuse.head", "linear (on any inputs), concat, crossattn."),
    ("fuse.inputs", "Names of encoders, as image,text."),
    ("fuse.seeds", "How many seeds; their mean predicts."),
)


@click.command("fuse", short_help="Train a head on cached features, in seconds.")
@setting_options(*KEYS)
@click.pass_context
def fuse_command(context: click.Context, **options: Any) -> None:
    """Train a head on the cached embeddings of one or more encoders."""
    from mmfeat.report.tables import figure_table
    from mmfeat.workflows.fuse import fuse

    project = open_project(context, options)
    result = fuse(project)
    click.echo(f"{result.description}; {result.n_train:,} rows")
    if result.lines:
        click.echo(figure_table(f"{result.n_val:,} val rows", result.lines))
        click.echo(
            "± is half the 95 % bootstrap interval (one seed: deviation over seeds); these rows also chose the epochs."
        )
    made = "Made" if result.made else "Already made:"
    head = result.run.record["head"]
    after = {"crossattn": "mmfeat ensemble fm3", "concat": "mmfeat ensemble fm2"}.get(head, "mmfeat runs")
    echo_next(f"{made} runs/{result.run.name}.", after)
