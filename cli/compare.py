"""`mmfeat compare`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import TOP, echo_next, open_project, overwrite_option, setting_options, typed_again
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted
from mmfeat.config.schema import HEADS


@click.group("compare", short_help="Heads or encoders on the same rows: figures, seconds, sizes, a plot.")
def compare_command() -> None:
    """Compare models on the val rows of the project, without changing anything that it uses."""


@compare_command.command("heads", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@setting_options(
    ("fuse.inputs", "Names of encoders, as image,text."), ("fuse.seeds", "How many seeds; their mean is compared.")
)
@overwrite_option
@click.pass_context
def heads_command(context: click.Context, names: tuple[str, ...], overwrite: bool, **options: Any) -> None:
    """Train all heads that take the project's inputs (or those named) and score them beside encoders and means."""
    from mmfeat.common.text import shown
    from mmfeat.report.comparison_table import about_comparison, comparison_table
    from mmfeat.workflows.compare_heads import compare_heads

    tables = dict.fromkeys((*(f"fuse.{head}" for head in names or HEADS), "fuse.linear"))
    project = open_project(context, options, ("fuse.inputs", "fuse.seeds", *tables, "predict", *TOP))
    result, metric = compare_heads(project, list(names), overwrite), project.config.metric
    for head, why in result.failed.items():
        click.echo(f"Note: {head} is not compared: {shown(why, 300)}", err=True)
    click.echo(comparison_table(f"{counted(result.n_val, 'val row')}", result.lines, result.baselines, metric))
    click.echo(about_comparison(result.lines, result.n_seeds, metric))
    files = ", ".join(path.name for path in result.files)
    folder = result.folder.relative_to(project.root)
    echo_next(f"{'Made' if result.made else 'Already made:'} {folder}: {files}.", result.after)


@compare_command.command("encoders", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--freeze", is_flag=True, help="Keep pretrained encoders; fit only their outputs, on cached features.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Fits of each encoder.")
@click.option("--use", metavar="NAME", help="Put one in use: a name of the table, or best.")
@setting_options()
@overwrite_option
@click.pass_context
def encoders_command(
    context: click.Context,
    names: tuple[str, ...],
    freeze: bool,
    seeds: int,
    use: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Train encoders on the same split and compare size, time, figures and speed.

    NAME is an encoder of mmfeat.toml, a model of timm, torchvision or transformers, or MODEL=FILE with weights; image:MODEL and
    text:MODEL say what a model takes. Without NAME: all encoders of mmfeat.toml.
    """
    from mmfeat.common.text import shown
    from mmfeat.report.encoder_comparison_table import (
        about_encoders,
        appendix_table,
        best_lines,
        class_table,
        encoder_table,
    )
    from mmfeat.workflows.compare_encoders import compare_encoders, use_encoders

    project = open_project(context, options, (*([] if freeze else ["finetune"]), "fuse.linear", "predict", *TOP))
    result, metric = compare_encoders(project, list(names), freeze, seeds, overwrite), project.config.metric
    for label, why in result.failed.items():
        click.echo(f"Note: {shown(label)} is not compared: {shown(why, 300)}", err=True)
    click.echo(encoder_table(f"{counted(result.n_val, 'val row')}", result.lines, result.baseline, metric))
    click.echo(about_encoders(result.lines, seeds, metric))
    click.echo(f"\n{appendix_table(result.lines)}\n\n{class_table(result.lines, project.manifest.classes)}\n")
    for line in best_lines(result.lines, metric):
        click.echo(line)
    files = ", ".join(path.name for path in result.files)
    folder = result.folder.relative_to(project.root)
    made = f"{'Made' if result.made else 'Already made:'} {folder}: {files}."
    if use is None:
        echo_next(made, f"{typed_again()} --use best")
        return
    click.echo(made)
    used = use_encoders(project, result, use)
    for one in used:
        for text in one.lines:
            click.echo(text)
    echo_next(
        "; ".join(one.made for one in used) + ".",
        "mmfeat extract" if all(one.in_use for one in used) else "mmfeat status",
    )
