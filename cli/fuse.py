"""`mmfeat fuse`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options

KEYS = (
    ("fuse.head", "linear, mlp or labelquery; on two encoders or more also concat, crossattn, gated, weighted."),
    ("fuse.inputs", "Names of encoders, as image,text."),
    ("fuse.seeds", "How many seeds; their mean predicts."),
)


@click.command("fuse", short_help="Train a head on cached features, in seconds.")
@setting_options(*KEYS)
@click.pass_context
def fuse_command(context: click.Context, **options: Any) -> None:
    """Train a head on the cached embeddings of one or more encoders."""
    from mmfeat.report.tables import about_figures, figure_table
    from mmfeat.workflows.fuse import fuse

    project = open_project(context, options)
    result = fuse(project)
    click.echo(f"{result.description}; {result.n_train:,} rows")
    if result.lines:
        click.echo(figure_table(f"{result.n_val:,} val rows", result.lines))
        click.echo(about_figures(result.lines[0].n_left_out, "these rows also chose the epochs", seeds=True))
    made = "Made" if result.made else "Already made:"
    echo_next(f"{made} runs/{result.run.name}.", result.after)
