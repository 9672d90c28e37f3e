"""`mmfeat runs`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, echo_next, open_project, setting_options
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted


@click.command("runs", cls=Command, short_help="Every run on the current val rows, best first.")
@setting_options(*DECISION, top=("metric", "device"))
@click.pass_context
def runs_command(context: click.Context, **options: Any) -> None:
    """List runs and encoders by the project's metric, best first, with the size of the whole model."""
    from mmfeat.inference.next_commands import after_runs
    from mmfeat.metrics.metric_rows import MetricRow
    from mmfeat.report.text_tables import about_metrics, metric_cells, metric_header, shown, table
    from mmfeat.workflows.runs import ranked_runs

    project = open_project(context, options, ("predict", "metric", "device"))
    ranked = ranked_runs(project)
    after = after_runs(project, ranked)
    if not ranked:
        echo_next("No runs yet.", after)
        return
    metric, rows, left_out = project.config.metric, [], 0
    head = metric_header(metric)
    for line in ranked:
        cells = ["-"] * len(head)
        if line.metrics:
            figures = MetricRow.of(line.name, line.metrics)
            cells, left_out = metric_cells(figures, metric), figures.n_left_out
        state = line.state + (", transductive" if line.transductive else "")
        size = "-" if line.size_mb is None else f"{line.size_mb:,.1f}"
        rows.append([shown(line.name), shown(line.made_from, 40), *cells, size, shown(state, 200)])
    click.echo(table(("run", "made from", *head, "MB"), rows, left=2))
    n_val = len(project.manifest.rows("val"))
    if any(line.metrics for line in ranked):
        click.echo(about_metrics(left_out, "these rows also chose epochs and rounds"))
    order = (
        f"on {counted(n_val, 'val row')}, best {metric} first"
        if n_val
        else "newest first: there are no val rows to rank by"
    )
    echo_next(f"{len(ranked)} {order}; MB is the whole model with its encoders.", after)
