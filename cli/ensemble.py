"""`mmfeat ensemble`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, echo_threshold, naming_of, naming_options, open_project, setting_options
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted
from mmfeat.config.schema import METHODS, RECIPES


@click.command("ensemble", cls=Command, free=("note",), short_help="Combine the logits of encoders and runs.")
@click.argument("members", nargs=-1, metavar="[RECIPE | MEMBER...]")
@click.option(
    "--method",
    default=METHODS[0],
    metavar="METHOD",
    show_default=True,
    help=f"One of: {', '.join(METHODS)}. All but mean are fitted on val. greedy selects the members: from those named, or from all.",
)
@setting_options(*DECISION[:1], top=("metric", "device"))
@naming_options
@click.pass_context
def ensemble_command(context: click.Context, members: tuple[str, ...], method: str, **options: Any) -> None:
    """Combine logits by their mean, or by weights that are fitted on val and evaluated by cross-fitting.

    RECIPE is fm1 (both encoders), fm2 (fm1, which is made if needed, and the concat head) or fm3 (both encoders and the cross-attention head).
    A MEMBER is an encoder's or a run's name.
    """
    from mmfeat.inference.next_commands import with_options
    from mmfeat.report.text_tables import about_fit, about_metrics, metric_table, weight_table
    from mmfeat.workflows.ensemble import ensemble

    recipe = ("fuse.inputs",) if len(members) == 1 and members[0] in RECIPES else ()
    naming = naming_of(options)
    project = open_project(context, options, (*recipe, "predict", "metric", "device"))
    result = ensemble(project, list(members), method=method, naming=naming)
    record, fitted = result.run.record, result.fitted
    echo(result.description)
    if fitted:
        echo(weight_table(result.run.members, record.get("bias"), record["classes"]))
    if result.left_out:
        echo(f"not selected: {', '.join(result.left_out)}")
    if result.lines:
        echo(metric_table(f"{counted(result.n_val, 'val row')}", result.lines, project.config.metric))
        explain(about_metrics(result.lines[-1], result.selection))
    if fitted:
        echo(about_fit(fitted, result.gain))
    echo_threshold(result.threshold)
    made = "Made" if result.made else "Already made:"
    echo_next(f"{made} runs/{result.run.name}.", with_options(project.config, result.after))
