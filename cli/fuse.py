"""`mmfeat fuse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import TOP, echo_next, echo_one_class, open_project, setting_options
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.config.schema import Config

KEYS = (
    ("fuse.head", "What is trained; concat, crossattn, gated and weighted take two encoders or more."),
    ("fuse.inputs", "Names of encoders, as image,text."),
    ("fuse.seeds", "How many seeds; their mean predicts."),
)
FOLDS = ("fuse.folds", "5: heads that are each blind to a fifth of the labelled rows; 0: none.")


@click.command("fuse", cls=Command, short_help="Train a head on cached features, in seconds.")
@setting_options(*KEYS, FOLDS)
@click.pass_context
def fuse_command(context: click.Context, **options: Any) -> None:
    """Train a head on the cached embeddings of one or more encoders."""
    from mmfeat.report.text_tables import about_metrics, left_out, metric_table
    from mmfeat.workflows.fuse import fuse

    project = open_project(context, options, _reads)
    result = fuse(project)
    echo_one_class(project)
    folds, labelled = result.run.record.get("folds"), result.labelled
    click.echo(f"{result.description}; {counted(result.n_train + (result.n_val if folds else 0), 'row')}")
    if labelled and labelled.lines:
        click.echo(metric_table(f"{counted(labelled.n_rows, 'labelled row')}, out of fold", labelled.lines))
        click.echo(left_out(labelled.lines[0].n_left_out) or "Every class has a positive among these rows.")
    elif labelled:
        click.echo(
            f"Encoders were fine-tuned on {labelled.n_in_sample:,} of the {counted(labelled.n_rows, 'labelled row')}: in-sample even "
            f"out of fold, so that figures are those of val."
        )
    if result.lines:
        click.echo(metric_table(f"{counted(result.n_val, 'val row')}", result.lines))
        others = f"{result.run.record['head']}: out of fold, its epochs chosen by the other folds"
        chose = others if folds else "these rows also chose the epochs"
        click.echo(about_metrics(result.lines[0].n_left_out, chose, seeds=True))
    made = "Made" if result.made else "Already made:"
    echo_next(f"{made} runs/{result.run.name}.", result.after)


def _reads(config: Config) -> tuple[str, ...]:
    """What of mmfeat.toml makes the run: of the heads' tables its own, and that of the linear head beside it."""
    keys = ("fuse.head", "fuse.inputs", "fuse.seeds", "fuse.folds")
    return (*keys, *dict.fromkeys((f"fuse.{config.fuse.head}", "fuse.linear")), "predict", *TOP)
