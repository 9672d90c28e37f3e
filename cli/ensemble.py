"""`mmfeat ensemble`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.command("ensemble", short_help="Average the logits of encoders and runs.")
@click.argument("members", nargs=-1, required=True, metavar="RECIPE | MEMBER...")
@setting_options()
@click.pass_context
def ensemble_command(context: click.Context, members: tuple[str, ...], **options: Any) -> None:
    """Average logits; nothing is fitted.

    RECIPE is fm1 (both encoders), fm2 (fm1, made where it is not there, and the concat head) or fm3 (both encoders and the cross-attention head).
    A MEMBER is an encoder's or a run's name.
    """
    from mmfeat.report.tables import about_figures, figure_table
    from mmfeat.workflows.ensemble import ensemble

    project = open_project(context, options)
    result = ensemble(project, list(members))
    click.echo(result.description)
    if result.lines:
        click.echo(figure_table(f"{result.n_val:,} val rows", result.lines))
        chose = "these rows also chose the epochs of what is averaged"
        click.echo(about_figures(result.lines[0].n_left_out, chose))
    echo_next(f"{'Made' if result.made else 'Already made:'} runs/{result.run.name}.", "mmfeat runs")
