"""`mmfeat fuse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import (
    DECISION,
    echo_one_class,
    echo_threshold,
    naming_of,
    naming_options,
    open_project,
    setting_options,
)
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted
from mmfeat.config.read_keys import fuse_keys, started_fuse_keys

if TYPE_CHECKING:
    from mmfeat.workflows.fuse import FuseResult

KEYS = (
    ("fuse.head", "The head to train. concat, crossattn, gated and weighted take two or more encoders."),
    ("fuse.inputs", "Names of encoders, such as image,text."),
    ("fuse.seeds", "Number of seeds. Predictions use the mean of their logits."),
)
FOLDS = ("fuse.folds", "5: each head is trained without one fifth of the labelled rows, and scores that fifth. 0: off.")


@click.command("fuse", cls=Command, free=("note",), short_help="Train a head on cached features, in seconds.")
@setting_options(*KEYS, FOLDS, *DECISION[:1])
@click.option(
    "--from",
    "from_run",
    metavar="RUN",
    help="Start from the weights of a run, and learn new or corrected labels in a quarter of the epochs.",
)
@naming_options
@click.pass_context
def fuse_command(context: click.Context, from_run: str | None, **options: Any) -> None:
    """Train a head on the cached embeddings of one or more encoders."""
    from mmfeat.report.text_tables import about_metrics, metric_table
    from mmfeat.workflows.fuse import fuse

    reads = fuse_keys if from_run is None else started_fuse_keys
    naming, project = naming_of(options), open_project(context, options, reads)
    result = fuse(project, from_run=from_run, naming=naming)
    echo_one_class(project)
    folds = result.run.record.get("folds")
    echo(f"{result.description}; {counted(result.n_train + (result.n_val if folds else 0), 'row')}")
    _echo_labelled(result)
    if result.lines:
        echo(metric_table(f"{counted(result.n_val, 'val row')}", result.lines))
        explain(about_metrics(result.lines[-1], result.selection, seeds=True))
        echo_threshold(result.threshold)
    if result.about_idle:
        explain(result.about_idle)
    made = "Made" if result.made else "Already made:"
    echo_next(f"{made} runs/{result.run.name}.", result.after)


def _echo_labelled(result: FuseResult) -> None:
    """Out-of-fold metrics on all labelled rows, if heads were trained in folds."""
    from mmfeat.report.text_tables import left_out, metric_table

    labelled = result.labelled
    if labelled and labelled.lines:
        echo(metric_table(f"{counted(labelled.n_rows, 'labelled row')}, out of fold", labelled.lines))
        explain(left_out(labelled.lines[0].n_left_out))
    elif labelled:
        echo(
            f"Encoders were fine-tuned on {labelled.n_in_sample:,} of {counted(labelled.n_rows, 'labelled row')}, so these "
            f"rows are in-sample even out of fold. The table shows only val rows."
        )
