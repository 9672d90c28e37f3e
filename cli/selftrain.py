"""`mmfeat selftrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.fuse import KEYS
from mmfeat.cli.options import TOP, echo_next, open_project, setting_options
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.config.schema import Config
    from mmfeat.training.encoder_rounds import EncoderCost


@click.command("selftrain", cls=Command, short_help="Learn from the unlabelled rows too.")
@setting_options(
    ("selftrain.rounds", "At most so many rounds."),
    (
        "selftrain.encoder_every",
        "Fine-tune the encoders on pseudo-labels too, after every N rounds; what it costs is asked first.",
    ),
    ("selftrain.policy", "How unlabelled rows are taught; all is the paper's way."),
    *KEYS,
)
@click.option("--yes", is_flag=True, help="Fine-tune encoders without asking.")
@click.pass_context
def selftrain_command(context: click.Context, yes: bool, **options: Any) -> None:
    """Give the unlabelled rows pseudo-labels, learn from them, again while val rises; on cached features."""
    from mmfeat.report.round_table import rounds_table
    from mmfeat.report.text_tables import about_metrics, metric_table
    from mmfeat.workflows.selftrain import selftrain

    project = open_project(context, options, _reads)
    if yes and not project.config.selftrain.encoder_every:
        raise click.UsageError("--yes answers what encoder rounds cost: it needs --encoder-every", context)
    result = selftrain(project, lambda cost: _confirm(cost, yes))
    config = project.config
    every = config.selftrain.encoder_every
    source = f"encoders anew after every {counted(every, 'round')}" if every else "cached features only"
    partly = f" ({result.n_partly:,} in part)" if result.n_partly else ""
    click.echo(
        f"policy {config.selftrain.policy}, head {config.fuse.head}, {result.n_train:,} labelled{partly} + "
        f"{counted(result.n_unlabelled, 'unlabelled row')}; {source}"
    )
    click.echo(rounds_table(result.rounds, config.metric))
    click.echo(
        f"Rounds: figures of one small MLP on {counted(result.n_val, 'val row')}; {config.metric} against the best round "
        "before, with its 95 % interval."
    )
    click.echo(metric_table(f"{counted(result.n_val, 'val row')}", result.lines, config.metric))
    chose = "these rows also chose epochs and rounds"
    click.echo(about_metrics(result.lines[0].n_left_out, chose, seeds=True))
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


def _confirm(cost: EncoderCost, yes: bool) -> None:
    """Say what encoder rounds cost, and ask unless that was answered already."""
    from mmfeat.common.errors import MmfeatError
    from mmfeat.common.progress import clock

    click.echo(
        f"Encoder rounds: up to {cost.times}, each fine-tunes {' and '.join(cost.names)} on {counted(cost.n_rows, 'row')} and encodes all "
        f"rows anew: about {clock(cost.seconds)} each, {clock(cost.times * cost.seconds)} in all, and {cost.mb:,.1f} MB each.",
        err=True,
    )
    try:
        go_on = yes or click.confirm("Go on?", err=True)
    except click.Abort:  # nobody is there to answer
        click.echo(err=True)
        go_on = False
    if not go_on:
        raise MmfeatError("nothing was done. Without asking: --yes; without encoder rounds: --encoder-every 0")


def _reads(config: Config) -> tuple[str, ...]:
    """What of mmfeat.toml makes the run; settings of encoders where these learn too."""
    chosen = config.selftrain
    keys = ["selftrain.rounds", "selftrain.encoder_every", "selftrain.policy"]
    keys += ["selftrain.yes", "selftrain.no"] if chosen.policy == "confident" else []
    keys += ["fuse.head", "fuse.inputs", "fuse.seeds", f"fuse.{config.fuse.head}"]
    keys += ["finetune", "fuse.linear"] if chosen.encoder_every else []
    return (*keys, "predict", *TOP)
