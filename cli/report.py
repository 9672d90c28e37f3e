"""`mmfeat report`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, called, open_project, overwrite_option, setting_options
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import Command, Modes

from mmfeat.common.text import counted, megabytes

MODES = Modes(
    of=lambda ctx: "project" if ctx.params["of_project"] else "run",
    texts={
        "project": "report --project, which compares all runs on val (a project elsewhere: mmfeat --project DIR report)",
        "run": "a RUN",
    },
    acts=dict.fromkeys(("run", "split", "no_images", "no_captions"), ("run",)),
)


@click.command(
    "report", cls=Command, modes=(MODES,), short_help="A run, or all runs, as one HTML file to look at and to send."
)
@click.argument("run", required=False)
@click.option("--project", "of_project", is_flag=True, help="Compare all runs of the project instead of showing one.")
@click.option(
    "--split",
    default="val",
    type=click.Choice(["val", "test", "train", "train+val"]),
    help="The labelled rows of the metrics.",
)
@click.option("--no-images", is_flag=True, help="Leave out pictures, for confidential data.")
@click.option("--no-captions", is_flag=True, help="Leave out captions, for confidential data.")
@click.option("--out", default="", metavar="FILE", help="The HTML file. [default: runs/RUN/report.html]")
@setting_options(*DECISION, top=("metric", "device"))
@overwrite_option
@click.pass_context
def report_command(context: click.Context, run: str | None, **options: Any) -> None:
    """Write metrics, curves, errors, doubtful rows and the lineage of RUN as one HTML file. Without RUN: the best run.

    The file needs nothing beside it and loads nothing from elsewhere. Its tables are also written as CSV.
    """
    from mmfeat.workflows.report import report

    project = open_project(context, options, ("predict", "metric", "device"))
    shown = {"images": not options["no_images"], "captions": not options["no_captions"]}
    names = ("of_project", "split", "overwrite")
    result = report(project, run, out=options["out"] or None, **shown, **{name: options[name] for name in names})
    if result.run:
        echo(f"{called(result.run, project)}{f', {result.chosen}' if result.chosen else ''}")
    tables = counted(len(result.tables), "table")
    sections = counted(result.n_sections, "section")
    echo_next(f"Made {result.file} ({megabytes(result.mb)}, {sections}), and {tables} as CSV beside it.", result.after)
