"""`mmfeat selftrain`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.fuse import KEYS
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.command("selftrain", short_help="Learn from the unlabelled rows too.")
@setting_options(
    ("selftrain.rounds", "At most so many rounds."),
    ("selftrain.policy", "all: every unlabelled row, every round."),
    *KEYS,
)
@click.pass_context
def selftrain_command(context: click.Context, **options: Any) -> None:
    """Give the unlabelled rows pseudo-labels, learn from them, again while val rises; cached features only."""
    from mmfeat.report.tables import figure_table, table
    from mmfeat.workflows.selftrain import selftrain

    project = open_project(context, options)
    result = selftrain(project)
    config = project.config
    click.echo(
        f"policy {config.selftrain.policy}, head {config.fuse.head}, {result.n_train:,} labelled + "
        f"{result.n_unlabelled:,} unlabelled rows; cached features only"
    )
    rows = []
    for one in result.rounds:
        figures = one["figures"]
        low, high = figures["samples_f1_interval"]
        verdict = (
            "supervised" if one["number"] == 0 else "accepted" if one["accepted"] else "reverted: val no longer rises"
        )
        cells = [
            f"{one['n_pseudo']:,}" if one["number"] else "-",
            "-" if one["changed"] is None else f"{one['changed']:,}",
        ]
        f1 = f"{figures['samples_f1']:.3f} ± {(high - low) / 2:.3f}"
        rows.append([one["number"], *cells, f1, f"{figures['macro_f1']:.3f}", f"{figures['map']:.3f}", verdict])
    click.echo(table(("round", "pseudo-labels", "changed", "samples-F1", "macro-F1", "mAP"), rows))
    click.echo(f"Rounds: a model for each encoder and the head, mean of their logits, on {result.n_val:,} val rows.")
    click.echo(figure_table(f"{result.n_val:,} val rows", result.lines))
    origin = f"from round {result.best}" if result.best else "from the supervised round: no round helped"
    last = len(result.rounds) - 1
    made = "Made" if result.made else "Already made:"
    echo_next(
        f"{made} runs/{result.run.name} {origin}, stopped after {last} of {config.selftrain.rounds}.", "mmfeat predict"
    )
