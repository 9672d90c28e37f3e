"""`mmfeat review`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from mmfeat.cli.options import DECISION, called, decision_reads, open_project, overwrite_option, setting_options
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import Command, Modes

from mmfeat.common.text import counted

WRITES = (
    "run",
    "n",
    "split",
    "out",
    "sets",
    "set_metric",
    "set_device",
    *(f"set_{k.replace('.', '__')}" for k, _ in DECISION),
)
MODES = Modes(
    of=lambda ctx: next((mode for mode in ("undo", "apply", "serve") if ctx.params[mode]), "write"),
    texts={"undo": "--undo", "apply": "--apply", "serve": "--serve", "write": "a new review"},
    acts={
        **dict.fromkeys(WRITES, ("write", "serve")),
        "format": ("write",),
        "apply": ("apply",),
        **dict.fromkeys(("serve", "port", "no_browser"), ("serve",)),
        "overwrite": ("write", "apply", "undo"),
    },
)


@click.command(
    "review",
    cls=Command,
    modes=(MODES,),
    short_help="Select rows to check by hand, and apply the labels that were filled in.",
)
@click.argument("run", required=False)
@click.option(
    "--n", "n", type=click.IntRange(min=1), default=None, help="Number of rows. [default: 50; 500 with --serve]"
)
@click.option(
    "--split",
    default="unlabelled",
    type=click.Choice(["unlabelled", "train", "val"]),
    help="unlabelled; or train, val: labelled rows whose labels the model contradicts.",
)
@click.option(
    "--format",
    default="csv",
    type=click.Choice(["csv", "label-studio", "coco"]),
    show_default=True,
    help="csv: a table to fill in; or a file for another tool.",
)
@click.option(
    "--out",
    default="",
    metavar="FILE",
    help="The file to write. [default: in the project's folder: review.csv, review.json, or with --serve review.jsonl]",
)
@click.option("--serve", is_flag=True, help="Show the rows on a page of this machine, with the findings of the audit.")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    metavar="N",
    help="The port of the page. [default: a free one]",
)
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
@click.option(
    "--apply",
    default="",
    metavar="FILE",
    help="Apply the labels in a table, in review.jsonl, or in another tool's export.",
)
@click.option("--undo", is_flag=True, help="Undo the last --apply.")
@setting_options(*DECISION, top=("metric", "device"))
@overwrite_option
@click.pass_context
def review_command(context: click.Context, run: str | None, **options: Any) -> None:
    """Write a table of the rows that are most worth labelling, ranked by RUN. Without RUN: the best run on val.

    RUN may be an encoder with a linear probe. Fill in its column labels, then --apply the file: the labels are added to corrections.csv and to the manifest.
    With --serve, look at the rows and give labels in a browser.
    """
    project = open_project(context, options, decision_reads(bool(run)))
    if options["apply"] or options["undo"]:
        _echo_applied(project, options["apply"], options["overwrite"])
    elif options["serve"]:
        _echo_served(project, run, options)
    else:
        _echo_review(project, run, options)


def _echo_review(project: Any, run: str | None, options: dict[str, Any]) -> None:
    from mmfeat.inference.review_queue import about_in_sample
    from mmfeat.workflows.review import DEFAULT_N, review

    names = ("split", "format", "overwrite")
    given = {name: options[name] for name in names}
    result = review(project, run, n=options["n"] or DEFAULT_N, out=options["out"] or None, **given)
    echo(f"{called(result.run, project)}{f', {result.chosen}' if result.chosen else ''}")
    if result.n_reviewed:
        echo(f"{counted(result.n_reviewed, 'row')} left out: they are in corrections.csv")
    if result.n_unknown:
        echo(f"{counted(result.n_unknown, 'row')} left out: they have no input of the run")
    for name in result.without_prediction:
        echo(f"encoder {name} has no unimodal predictions here (see: mmfeat status)")
    if result.in_sample:
        echo(f"{result.in_sample}: {about_in_sample(result.split)}")
    name = result.file.name if result.file.parent.resolve() == Path.cwd() else str(result.file)
    made = f"{'Made' if result.made else 'Already made:'} {name} ({result.n_rows:,} of {counted(result.n_candidates, f'{result.split} row')})."
    if result.format == "label-studio":
        echo(f"Import it in a project with the labeling interface of {result.config.name}; export as JSON.")
    elif result.format == "coco":
        echo("An image counts as answered if its reviewed is true or left out.")
    else:
        echo(
            f"Fill in the column labels ({result.nothing} where no class applies). Rows that you leave blank stay as they are."
        )
    echo_next(made, f"mmfeat review --apply {name if result.format != 'label-studio' else 'EXPORT.json'}")


def _echo_served(project: Any, run: str | None, options: dict[str, Any]) -> None:
    from mmfeat.workflows.serve_review import DEFAULT_N, serve_review

    result = serve_review(
        project,
        run,
        n=options["n"] or DEFAULT_N,
        split=options["split"],
        out=options["out"] or None,
        port=options["port"],
        browser=not options["no_browser"],
    )
    echo_next(result.made, result.after)


def _echo_applied(project: Any, filled: str, overwrite: bool) -> None:
    from mmfeat.workflows.apply_review import apply_review, undo_review

    result = apply_review(project, filled, overwrite) if filled else undo_review(project, overwrite)
    for line in result.lines:
        echo(line)
    echo_next(result.made, result.after)
