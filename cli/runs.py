"""`mmfeat runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import DECISION, open_project, setting_options
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command, Modes

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.metrics.metric_rows import MetricRow
    from mmfeat.report.table_layout import Table
    from mmfeat.workflows.runs import RunsResult

LISTS = ("sort", "sets", "set_metric", "set_device", *(f"set_{key.replace('.', '__')}" for key, _ in DECISION))
CHANGES = {"rename": "--rename", "delete": "--delete", "note": "--note"}
MODES = Modes(
    of=lambda ctx: next((name for name in CHANGES if ctx.params[name]), "list"),
    texts={"list": "the list of runs", **CHANGES},
    acts={**dict.fromkeys(LISTS, ("list",)), **{name: (name,) for name in CHANGES}},
)


@click.command(
    "runs",
    cls=Command,
    modes=(MODES,),
    free=("note",),
    short_help="List all runs on the current val rows, best first; rename or delete one.",
)
@click.option(
    "--sort", default="", metavar="COLUMN", help="A column to sort by, such as map. [default: the project's metric]"
)
@click.option("--rename", type=str, nargs=2, metavar="OLD NEW", help="Rename a run. What refers to it still finds it.")
@click.option("--delete", default="", metavar="RUN", help="Delete a run, unless another run depends on it.")
@click.option("--note", type=str, nargs=2, metavar="RUN TEXT", help="Replace the note of a run; '' removes it.")
@setting_options(*DECISION, top=("metric", "device"))
@click.pass_context
def runs_command(
    context: click.Context,
    sort: str,
    rename: tuple[str, str] | None,
    delete: str,
    note: tuple[str, str] | None,
    **options: Any,
) -> None:
    """List runs and encoders by the project's metric, best first, with the size of the whole model."""
    from mmfeat.workflows import runs as workflow

    project = open_project(context, options, ("predict", "metric", "device", "limit_mb", "heads_dtype"))
    if rename or delete or note:
        if rename:
            changed = workflow.rename(project, *rename)
        else:
            changed = workflow.delete(project, delete) if delete else workflow.annotate(project, *note)
        echo_next(changed.made, "mmfeat runs")
        return
    result = workflow.runs(project, sort=sort)
    if not result.runs:
        echo_next("No runs yet.", result.after)
        return
    _echo_list(result)


def _echo_list(result: RunsResult) -> None:
    from mmfeat.report.text_tables import about_metrics, metric_title

    echo(_table(result))
    if scored := list(_scored(result).values()):
        explain(about_metrics(scored[0], result.selection))
    if result.about_limit:
        explain(result.about_limit)
    on_val = f"on {counted(result.n_val, 'val row')}, best {metric_title(result.metric)} first"
    order = on_val if result.n_val else "newest first: there are no val rows to rank by"
    order = f"sorted by {result.sort}" if result.sort else order
    n_runs = counted(len(result.runs), "run or encoder", "runs and encoders")
    echo_next(f"{n_runs} {order}. MB: the whole model, encoders included.", result.after)


def _table(result: RunsResult) -> Table:
    from mmfeat.common.text import shown
    from mmfeat.report.table_layout import Cell, Unshown, number, outside, table
    from mmfeat.report.text_tables import metric_cells, metric_header, metric_title

    metric, rows, scored = result.metric, [], _scored(result)
    head = metric_header(metric, list(scored.values()))
    for line in result.runs:
        cells = ["-"] * len(head)
        if line.metrics:
            cells = metric_cells(scored[line.name], metric, list(scored.values()))
        text = shown(line.about, 200) + (f"; {shown(line.note, 200)}" if line.note else "")
        names = [outside(line.name), outside(line.made_from, 40)]
        rows.append([*names, *cells, number(line.size_mb, 1), line.created, line.note, Cell(text, line.about)])
    titles = ["run", "made from", *head, "MB", Unshown("created"), Unshown("note")]
    return table(titles, rows, left=2, title="runs", note="state", keep=[metric_title(metric)])


def _scored(result: RunsResult) -> dict[str, MetricRow]:
    """The metrics of the lines that have any, by name."""
    from mmfeat.metrics.metric_rows import MetricRow

    return {line.name: MetricRow.of(line.name, line.metrics) for line in result.runs if line.metrics}
