"""`mmfeat demo`."""

from __future__ import annotations

import click
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted


@click.command(
    "demo",
    cls=Command,
    in_project=False,
    short_help="Run the main commands on a small synthetic data set, without a GPU.",
)
@click.option("--folder", default="mmfeat-demo", metavar="DIR", help="The folder to make. [default: mmfeat-demo]")
@click.option("--seed", default=0, type=int, metavar="N", help="Seed of the data set and of everything after it.")
def demo_command(folder: str, seed: int) -> None:
    """Make a small data set of pictures and captions, run the main commands, and compare models on hidden labels."""
    from mmfeat.api.demo import demo
    from mmfeat.common.progress import clock
    from mmfeat.report.text_tables import about_metrics, metric_table

    result = demo(folder, seed)
    echo(metric_table(f"on {counted(result.n_rows, 'unlabelled row')}", result.lines))
    explain(about_metrics(result.lines[-1], "the labels of these rows were hidden from every command"))
    echo_next(f"Made {result.folder} in {clock(result.seconds)}.", f"cd {folder} && mmfeat runs")
