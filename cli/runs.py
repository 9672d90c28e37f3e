"""`mmfeat runs`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, echo_next, open_project, setting_options
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted


@click.command("runs", cls=Command, short_help="List all runs on the current val rows, best first.")
@setting_options(*DECISION, top=("metric", "device"))
@click.pass_context
def runs_command(context: click.Context, **options: Any) -> None:
    """List runs and encoders by the project's metric, best first, with the size of the whole model."""
    from mmfeat.metrics.metric_rows import MetricRow
    from mmfeat.report.text_tables import about_metrics, metric_cells, metric_header, metric_title, shown, table
    from mmfeat.workflows.runs import runs

    project = open_project(context, options, ("predict", "metric", "device"))
    result = runs(project)
    if not result.runs:
        echo_next("No runs yet.", result.after)
        return
    metric, rows = result.metric, []
    scored = {line.name: MetricRow.of(line.name, line.metrics) for line in result.runs if line.metrics}
    head = metric_header(metric, list(scored.values()))
    for line in result.runs:
        cells = ["-"] * len(head)
        if line.metrics:
            cells = metric_cells(scored[line.name], metric, list(scored.values()))
        size = "-" if line.size_mb is None else f"{line.size_mb:,.1f}"
        rows.append([shown(line.name), shown(line.made_from, 40), *cells, size, shown(line.about, 200)])
    click.echo(table(("run", "made from", *head, "MB"), rows, left=2))
    if scored:
        click.echo(about_metrics(next(iter(scored.values())), result.selection))
    on_val = f"on {counted(result.n_val, 'val row')}, best {metric_title(metric)} first"
    order = on_val if result.n_val else "newest first: there are no val rows to rank by"
    n_runs = counted(len(result.runs), "run or encoder", "runs and encoders")
    echo_next(f"{n_runs} {order}. MB: the whole model, encoders included.", result.after)
