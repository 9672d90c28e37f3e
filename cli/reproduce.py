"""`mmfeat reproduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from mmfeat.cli.options import overwrite_option, typed_again
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command

if TYPE_CHECKING:
    from mmfeat.api.reproduce import ReproduceDryRun, ReproduceResult


@click.command(
    "reproduce", cls=Command, short_help="Run the whole paper, and set every table beside the paper's numbers."
)
@click.option(
    "--tables", metavar="N,N,...", help="Tables of the paper, such as 1,2,3,5. [default: all, and self-training]"
)
@click.option("--self-training", is_flag=True, help="Run self-training and make the submission.")
@click.option(
    "--scale",
    type=click.Choice(["paper", "small"]),
    default="paper",
    show_default=True,
    help="small: the demo's data and tiny encoders, in minutes, in the new project mmfeat-paper-small.",
)
@click.option("--dry-run", is_flag=True, help="Run nothing. Show the steps and what each costs on this machine.")
@overwrite_option
@click.pass_context
def reproduce_command(
    context: click.Context, tables: str | None, self_training: bool, scale: str, dry_run: bool, overwrite: bool
) -> None:
    """Run the paper in a project of mmfeat init --preset paper: comparisons, sweeps, ablation, self-training, submission.

    What exists is not made again, so an interrupted run continues. Tables are written into paper/.
    """
    from mmfeat.api.reproduce import reproduce

    result = reproduce(
        context.obj, tables=tables, self_training=self_training, scale=scale, dry_run=dry_run, overwrite=overwrite
    )
    if dry_run:
        _echo_plan(result)
    else:
        _echo_result(result, own=scale == "paper")


def _echo_plan(result: ReproduceDryRun) -> None:
    from mmfeat.common.text import shown
    from mmfeat.report.table_layout import duration, outside, table

    rows = [[outside(one.command), one.tables, duration(one.seconds), shown(one.what, 300)] for one in result.steps]
    echo(table(("step", "tables", "about"), rows, left=2, title="steps"))
    echo_next(result._about(), typed_again())


def _echo_result(result: ReproduceResult, *, own: bool) -> None:
    """The tables; `own` is whether the project is that of `--project`."""
    import shlex

    from mmfeat.common.progress import clock
    from mmfeat.common.text import counted

    tables = [sheet for sheet in result.sheets if not sheet.by_class]
    for sheet in tables:
        echo(sheet.table())
        echo("")
    explain("\n".join(dict.fromkeys(note for sheet in tables for note in sheet.notes)))
    pages = ", ".join(path.name for path in result.files if path.suffix != ".csv")
    made = f"Made {result.folder}: {pages} and a CSV for each of {counted(len(result.files) - 2, 'table')}, in {clock(result.seconds)}."
    echo_next(made, "mmfeat runs" if own else f"mmfeat --project {shlex.quote(str(result.folder.parent))} runs")
