"""`mmfeat evaluate`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, echo_next, echo_one_class, open_project, overwrite_option, setting_options
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted

WEAKEST = 3


@click.command("evaluate", cls=Command, short_help="All figures of one or more runs, class by class.")
@click.argument("names", nargs=-1, metavar="[RUN]...")
@click.option(
    "--split", default="val", type=click.Choice(["val", "test", "train", "train+val"]), help="Which labelled rows."
)
@setting_options(*DECISION, top=("metric", "device"))
@overwrite_option
@click.pass_context
def evaluate_command(
    context: click.Context, names: tuple[str, ...], split: str, overwrite: bool, **options: Any
) -> None:
    """Score runs and encoders (the best run, when none is named) on the same rows."""
    from mmfeat.report.evaluation_table import evaluation_table
    from mmfeat.report.text_tables import left_out, shown
    from mmfeat.workflows.evaluate import evaluate

    project = open_project(context, options, ("predict", "metric", "device"))
    result, metric = evaluate(project, list(names) or None, split, overwrite), project.config.metric
    echo_one_class(project)
    click.echo(
        evaluation_table(result.metrics, result.differences, f"{counted(result.n_rows, f'{split} row')}", metric)
    )
    if result.decided:
        click.echo(f"Labels by thresholds and temperature {result.decided}; val rows by those of other val rows.")
    first, figures = next(iter(result.metrics.items()))
    weakest = figures.scores.weakest(WEAKEST)
    click.echo(
        f"Weakest classes of {first}: "
        + ", ".join(f"{shown(repr(result.classes[k]))} F1 {f1:.3f} ({counted(n, 'row')})" for k, f1, n in weakest)
    )
    click.echo(left_out(figures.scores.n_classes_left_out) or "Every class has a positive among these rows.")
    for name, ids in result.trained.items():
        if ids:
            first = ", ".join(shown(i, 30) for i in ids[:WEAKEST]) + (", ..." if len(ids) > WEAKEST else "")
            click.echo(
                f"{name}: in-sample for {len(ids):,} of {counted(result.n_rows, 'row')}, it was trained on them ({first})."
            )
    if split == "val":
        tested = len(project.manifest.rows("test"))
        publish = "mmfeat evaluate --split test" if tested else "set [split] test before you start"
        click.echo(
            f"These rows also chose epochs and runs; for a figure to publish {'type: ' if tested else ''}{publish}."
        )
    else:
        for name, n in result.n_chosen.items():
            if n:
                click.echo(f"{name}: {n:,} of {counted(result.n_rows, 'row')} chose its epochs or rounds.")
        for name, n in result.n_folded.items():
            if n:
                click.echo(
                    f"{name}: {n:,} of {counted(result.n_rows, 'row')} out of fold, scored by heads that never saw them."
                )
        if not any((*map(len, result.trained.values()), *result.n_chosen.values(), *result.n_folded.values())):
            click.echo("Nothing was trained on these rows or chosen by them.")
    files = " and ".join(str(path.relative_to(project.root)) for path in result.files)
    echo_next(f"Made {files} ({counted(len(result.classes), 'class', 'classes')}).", result.after)
