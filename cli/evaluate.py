"""`mmfeat evaluate`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options

WEAKEST = 3


@click.command("evaluate", short_help="All figures of one or more runs, class by class.")
@click.argument("names", nargs=-1, metavar="[RUN]...")
@click.option("--split", default="val", type=click.Choice(["val", "test", "train"]), help="Which labelled rows.")
@setting_options(("predict.threshold", "A label needs a probability above it."))
@click.pass_context
def evaluate_command(context: click.Context, names: tuple[str, ...], split: str, **options: Any) -> None:
    """Score runs and encoders (the best run, when none is named) on the same rows."""
    from mmfeat.report.tables import left_out, shown, table
    from mmfeat.workflows.evaluate import evaluate

    project = open_project(context, options)
    result = evaluate(project, list(names) or None, split)
    head = [
        f"{result.n_rows:,} {split} rows",
        "samples-F1",
        "micro-F1",
        "macro-F1",
        "mAP",
        "accuracy per class",
        "whole sets right",
    ]
    keys = ("samples_f1", "micro_f1", "macro_f1", "map", "accuracy_per_class", "label_set_accuracy")
    rows = []
    for name, figures in result.figures.items():
        values = [getattr(figures.scores, key) for key in keys]
        rows.append([name, f"{values[0]:.3f} ± {figures.half_width:.3f}", *(f"{value:.3f}" for value in values[1:])])
    click.echo(table(head, rows))
    if result.difference:
        difference, low, high = result.difference
        verdict = "no more than chance" if low <= 0 <= high else "more than chance"
        click.echo(
            f"samples-F1, first minus second: {difference:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]: {verdict}"
        )
    first, figures = next(iter(result.figures.items()))
    weakest = figures.scores.weakest(WEAKEST)
    click.echo(
        f"Weakest classes of {first}: "
        + ", ".join(f"{shown(repr(result.classes[k]))} F1 {f1:.3f} ({n:,} rows)" for k, f1, n in weakest)
    )
    click.echo(left_out(figures.scores.n_classes_left_out) or "Every class has a positive among these rows.")
    for name, ids in result.trained.items():
        if ids:
            first = ", ".join(shown(i, 30) for i in ids[:WEAKEST]) + (", ..." if len(ids) > WEAKEST else "")
            click.echo(
                f"{name}: in-sample for {len(ids):,} of {result.n_rows:,} rows, it was trained on them ({first})."
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
                click.echo(f"{name}: {n:,} of {result.n_rows:,} rows chose its epochs or rounds.")
        if not any(result.trained.values()) and not any(result.n_chosen.values()):
            click.echo("Nothing was trained on these rows or chosen by them.")
    files = " and ".join(str(path.relative_to(project.root)) for path in result.files)
    echo_next(f"Made {files} ({len(result.classes)} classes).", result.after)
