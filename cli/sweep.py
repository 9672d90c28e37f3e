"""`mmfeat sweep`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, overrides_of, setting_options

SHOWN = 20


@click.group("sweep", short_help="Grids of settings: which are best, and which matter.")
def sweep_command() -> None:
    """Train grids of settings and compare them on val; nothing that the project uses is changed."""


@sweep_command.command("fuse")
@setting_options(
    ("fuse.head", "Names of heads, as linear,crossattn."),
    ("fuse.lr", "Learning rates, as 3e-4,1e-3."),
    ("fuse.dropout", "Shares that are dropped, as 0.1,0.3."),
    ("fuse.inputs", "Names of encoders, as image,text."),
    ("fuse.seeds", "How many seeds of each cell."),
)
@click.pass_context
def fuse_command(context: click.Context, **options: Any) -> None:
    """Train a grid of heads on cached features; --set fuse.KEY=A,B and fuse.HEAD.KEY=A,B sweep any other key."""
    from mmfeat.report.sweeps import effects_table, sweep_table
    from mmfeat.workflows.sweep import sweep_fuse

    result = sweep_fuse(context.obj, overrides_of(options))
    for note in result.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(sweep_table(f"{result.n_val:,} val rows", result.cells[:SHOWN], result.metric))
    if len(result.cells) > SHOWN:
        click.echo(f"and {len(result.cells) - SHOWN:,} more in sweeps/{result.file.name}")
    click.echo(
        "± is the deviation over seeds; seconds are of one head's share of its pass. These rows also chose the epochs, and "
        "the best of many looks better than it is."
    )
    if result.effects:
        click.echo(f"\n{effects_table(result.effects, result.metric)}")
        click.echo("Of the variance over all heads; what is left is between seeds and in combinations.")
    made = f"Made sweeps/{result.file.name}" if result.n_trained else f"Already made: sweeps/{result.file.name}"
    echo_next(f"{made} ({result.n_heads:,} heads, {result.n_trained:,} trained now).", result.after)
