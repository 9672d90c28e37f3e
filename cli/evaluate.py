"""`mmfeat evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import (
    DECISION,
    echo_one_class,
    echo_threshold,
    open_project,
    overwrite_option,
    setting_options,
)
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.workflows.evaluate import EvaluateResult

WEAKEST = 3


@click.command("evaluate", cls=Command, short_help="All metrics of one or more runs, also class by class.")
@click.argument("names", nargs=-1, metavar="[RUN]...")
@click.option(
    "--split", default="val", type=click.Choice(["val", "test", "train", "train+val"]), help="The labelled rows to use."
)
@click.option(
    "--honest",
    is_flag=True,
    help="Also choose threshold and, without RUN, the run on one half of val, and score the other. Epochs stay selected on val.",
)
@setting_options(*DECISION, top=("metric", "device"))
@overwrite_option
@click.pass_context
def evaluate_command(
    context: click.Context, names: tuple[str, ...], split: str, honest: bool, overwrite: bool, **options: Any
) -> None:
    """Score runs and encoders on the same rows. Without RUN: the best run."""
    from mmfeat.report.evaluation_table import difference_table, evaluation_table
    from mmfeat.report.text_tables import left_out
    from mmfeat.workflows.evaluate import evaluate

    project = open_project(context, options, ("predict", "metric", "device"))
    result, metric = evaluate(project, names, split=split, honest=honest, overwrite=overwrite), project.config.metric
    echo_one_class(project)
    echo(evaluation_table(result.metrics, f"{counted(result.n_rows, f'{split} row')}", metric=metric))
    if result.differences:
        echo(difference_table(next(iter(result.metrics)), result.differences, metric=metric))
    reports = result.thresholds
    for name, report in reports.items():
        echo_threshold(report, name if len(reports) > 1 else "")
    if len(reports) > 1:
        explain(next(iter(reports.values())).typed)
    for choice in result.honest:
        echo(choice.line)
    _echo_weakest(result)
    first = next(iter(result.metrics.values()))
    explain(left_out(first.scores.n_classes_left_out))
    _echo_in_sample(result)
    for name, text in result.relabelled.items():
        if text:
            echo(f"{name}: {text}; it learned their earlier labels.")
    if split == "val":
        tested = len(project.manifest.rows("test"))
        publish = "run: mmfeat evaluate --split test" if tested else "set [split] test before you start"
        epochs = set(result.n_selected.values()) == {result.n_rows}
        if not epochs:
            _echo_selected(result)
        what = "Epochs and runs were" if epochs else "Runs are"
        explain(f"{what} selected on these rows. For a figure to publish, {publish}.")
    else:
        _echo_selected(result)
    files = " and ".join(str(path.relative_to(project.root)) for path in result.files)
    echo_next(f"Made {files} ({counted(len(result.classes), 'class', 'classes')}).", result.after)


def _echo_weakest(result: EvaluateResult) -> None:
    """The classes with the lowest F1 of the first run."""
    from mmfeat.common.text import shown

    name, metrics = next(iter(result.metrics.items()))
    weakest = ", ".join(
        f"{shown(repr(result.classes[k]))} F1 {f1:.3f} ({counted(n, 'row')})"
        for k, f1, n in metrics.scores.weakest(WEAKEST)
    )
    echo(f"Weakest classes of {name}: {weakest}")


def _echo_in_sample(result: EvaluateResult) -> None:
    """The rows that a run was trained on."""
    from mmfeat.common.text import shown

    for name, ids in result.trained.items():
        if ids:
            some = ", ".join(shown(i, 30) for i in ids[:WEAKEST]) + (", ..." if len(ids) > WEAKEST else "")
            echo(
                f"{name}: in-sample for {len(ids):,} of {counted(result.n_rows, 'row')}, which it was trained on ({some})."
            )


def _echo_selected(result: EvaluateResult) -> None:
    """The rows that selected epochs or rounds, and those that are out of fold."""
    for name, n in result.n_selected.items():
        if n:
            echo(f"{name}: epochs or rounds were selected on {n:,} of {counted(result.n_rows, 'row')}.")
    for name, n in result.n_out_of_fold.items():
        if n:
            echo(
                f"{name}: {n:,} of {counted(result.n_rows, 'row')} out of fold, scored by heads that were not trained on them."
            )
    if result.split != "val" and not any(
        (*map(len, result.trained.values()), *result.n_selected.values(), *result.n_out_of_fold.values())
    ):
        echo("Nothing was trained or selected on these rows.")
