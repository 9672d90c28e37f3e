"""`mmfeat selftrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.fuse import KEYS
from mmfeat.cli.options import DECISION, echo_threshold, naming_of, naming_options, open_project, setting_options
from mmfeat.cli.printing import echo, echo_next, explain, note
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted
from mmfeat.config.read_keys import selftrain_keys

if TYPE_CHECKING:
    from mmfeat.config.schema import Config, SelftrainConfig
    from mmfeat.training.encoder_rounds import EncoderCost
    from mmfeat.workflows.selftrain import SelftrainResult


@click.command("selftrain", cls=Command, free=("note",), short_help="Train on the unlabelled rows too.")
@setting_options(
    ("selftrain.rounds", "Maximum number of rounds."),
    (
        "selftrain.encoder_every",
        "Fine-tune the encoders on pseudo-labels too, after every N rounds. The cost is shown before the work begins.",
    ),
    ("selftrain.policy", "How unlabelled rows get pseudo-labels. paper: the paper's procedure."),
    ("selftrain.teacher", "With policy paper: the fusion that gives pseudo-labels and is judged on val."),
    *KEYS,
    *DECISION[:1],
)
@click.option("--yes", is_flag=True, help="Fine-tune encoders without asking.")
@naming_options
@click.pass_context
def selftrain_command(context: click.Context, yes: bool, **options: Any) -> None:
    """Give the unlabelled rows pseudo-labels and train on them, in rounds, while the metric on val rises."""
    from mmfeat.workflows.selftrain import plan_selftrain, selftrain

    naming, project = naming_of(options), open_project(context, options, selftrain_keys)
    if yes and not project.config.selftrain.encoder_every:
        raise click.UsageError("--yes accepts the cost of encoder rounds: it needs --encoder-every", context)
    plan = plan_selftrain(project, naming)
    if (cost := plan.cost()) is not None:
        _confirm(cost, yes)
    _echo_result(selftrain(project, plan), project.config)


def _echo_result(result: SelftrainResult, config: Config) -> None:
    """The rounds, and the metrics of the head."""
    from mmfeat.inference.next_commands import with_options
    from mmfeat.report.round_table import about_judged, rounds_table
    from mmfeat.report.text_tables import about_metrics, metric_table, metric_title

    n_val = counted(result.n_val, "val row")
    partly = f" ({result.n_partly:,} in part)" if result.n_partly else ""
    echo(
        f"policy {config.selftrain.policy}, head {config.fuse.head}, {result.n_train:,} labelled{partly} + "
        f"{counted(result.n_unlabelled, 'unlabelled row')}; {_about_encoders(config.selftrain)}"
    )
    echo(rounds_table(result.rounds, config.metric))
    judged = about_judged(config.selftrain)
    explain(
        f"Rounds: metrics of {judged} on {n_val}; difference in {metric_title(config.metric)} from the best earlier "
        "round, with its 95 % interval."
    )
    echo(metric_table(n_val, result.lines, config.metric))
    explain(about_metrics(result.lines[-1], "epochs and rounds were selected on these rows", seeds=True))
    echo_threshold(result.threshold)
    if fused := _fused_command(result, config):
        echo(f"The fused models of round {result.best} as a run: {fused}")
    origin = f"from round {result.best}" if result.best else "from the supervised round: no round was better"
    last = len(result.rounds) - 1
    if result.supervised is None:
        echo(
            "No supervised run with these settings to compare with. To make one: "
            + with_options(config, f"mmfeat fuse --head {config.fuse.head}")
        )
    elif not result.rises:
        origin += f" (no better than {result.supervised})"
    made = "Made" if result.made else "Already made:"
    echo_next(
        f"{made} runs/{result.run.name} {origin}; stopped after round {last} of {config.selftrain.rounds}.",
        result.after,
    )


def _about_encoders(selftrain: SelftrainConfig) -> str:
    """How often encoders were fine-tuned."""
    every, is_paper = selftrain.encoder_every, selftrain.policy == "paper"
    if not every:
        return "cached features only" + (": linear outputs stand for the paper's encoders" if is_paper else "")
    if is_paper:
        return f"encoders fine-tuned in {'every round' if every == 1 else f'round 1 and every {every} rounds'}"
    return f"encoders fine-tuned after every {counted(every, 'round')}"


def _fused_command(result: SelftrainResult, config: Config) -> str:
    """The command that makes a run of the fused models of the best round; empty if their encoders are not kept."""
    selftrain = config.selftrain
    if selftrain.policy != "paper" or not selftrain.encoder_every or not result.best:
        return ""
    if selftrain.teacher == "fm1":
        return f"mmfeat ensemble {' '.join(config.fuse.inputs)}"
    return (
        f"mmfeat ensemble {' '.join(config.fuse.inputs)} {result.run.name}" if config.fuse.head == "crossattn" else ""
    )


def _confirm(cost: EncoderCost, yes: bool) -> None:
    """Show what encoder rounds cost, and ask unless `--yes` was typed."""
    from mmfeat.common.errors import MmfeatError
    from mmfeat.workflows.selftrain import about_cost

    if yes:
        note(about_cost(cost))
    else:
        click.echo(about_cost(cost), err=True)  # a question needs it, even if notes are off
    try:
        go_on = yes or click.confirm("Continue?", err=True)
    except click.Abort:  # no terminal
        click.echo(err=True)
        go_on = False
    if not go_on:
        raise MmfeatError("nothing was done. Without asking: --yes; without encoder rounds: --encoder-every 0")
