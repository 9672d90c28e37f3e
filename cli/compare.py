"""`mmfeat compare`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.group("compare", short_help="Every head on the same rows: figures, seconds, sizes, a plot.")
def compare_command() -> None:
    """Compare models on the val rows of the project, without changing anything that it uses."""


@compare_command.command("heads")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@setting_options(
    ("fuse.inputs", "Names of encoders, as image,text."), ("fuse.seeds", "How many seeds; their mean is compared.")
)
@click.pass_context
def heads_command(context: click.Context, names: tuple[str, ...], **options: Any) -> None:
    """Train all heads that take the project's inputs (or those named) and score them beside encoders and means."""
    from mmfeat.report.comparison import about_comparison, comparison_table
    from mmfeat.texts import shown
    from mmfeat.workflows.compare import compare_heads

    project = open_project(context, options)
    result, metric = compare_heads(project, list(names)), project.config.metric
    for head, why in result.failed.items():
        click.echo(f"Note: {head} is not compared: {shown(why, 300)}", err=True)
    click.echo(comparison_table(f"{result.n_val:,} val rows", result.lines, result.baselines, metric))
    click.echo(about_comparison(result.lines, result.n_seeds, metric))
    files = ", ".join(path.name for path in result.files)
    folder = result.folder.relative_to(project.root)
    echo_next(f"{'Made' if result.made else 'Already made:'} {folder}: {files}.", result.after)
