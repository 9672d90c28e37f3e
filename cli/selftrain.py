"""`mmfeat selftrain`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.fuse import KEYS
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.command("selftrain", short_help="Learn from the unlabelled rows too.")
@setting_options(
    ("selftrain.rounds", "At most so many rounds."),
    ("selftrain.policy", "How unlabelled rows are taught; all: the paper's way."),
    *KEYS,
)
@click.pass_context
def selftrain_command(context: click.Context, **options: Any) -> None:
    """Give the unlabelled rows pseudo-labels, learn from them, again while val rises; cached features only."""
    from mmfeat.report.rounds import rounds_table
    from mmfeat.report.tables import about_figures, figure_table
    from mmfeat.workflows.selftrain import ROUND_HEAD, selftrain

    project = open_project(context, options)
    result = selftrain(project)
    config = project.config
    partly = f" ({result.n_partly:,} in part)" if result.n_partly else ""
    click.echo(
        f"policy {config.selftrain.policy}, head {config.fuse.head}, {result.n_train:,} labelled{partly} + "
        f"{result.n_unlabelled:,} unlabelled rows; cached features only"
    )
    click.echo(rounds_table(result.rounds, config.metric))
    click.echo(
        f"Rounds: figures of one seed's {ROUND_HEAD} on {result.n_val:,} val rows; {config.metric} against the best round "
        "before, with its 95 % interval."
    )
    click.echo(figure_table(f"{result.n_val:,} val rows", result.lines, config.metric))
    chose = "these rows also chose epochs and rounds"
    click.echo(about_figures(result.lines[0].n_left_out, chose, seeds=True))
    origin = f"from round {result.best}" if result.best else "from the supervised round: no round helped"
    last = len(result.rounds) - 1
    if result.supervised is None:
        click.echo(
            f"No supervised run of these settings to compare with: mmfeat fuse --head {config.fuse.head} makes it."
        )
    elif not result.rises:
        origin += f" (no rise over {result.supervised})"
    made = "Made" if result.made else "Already made:"
    echo_next(
        f"{made} runs/{result.run.name} {origin}, stopped after {last} of {config.selftrain.rounds}.", result.after
    )
