"""`mmfeat compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import DECISION, TOP, open_project, overwrite_option, setting_options, typed_again
from mmfeat.cli.printing import echo, echo_next, explain, note
from mmfeat.cli.strict import Command

from mmfeat.config.schema import HEADS

if TYPE_CHECKING:
    from mmfeat.project.project import Project
    from mmfeat.training.comparison_result import ComparisonResult


@click.group("compare", short_help="Heads or encoders on the same rows: metrics, seconds, sizes, a plot.")
def compare_command() -> None:
    """Compare models on the project's val rows, without changing anything that it uses."""


@compare_command.command(
    "heads", cls=Command, short_help="Train heads and compare them with encoders and means of logits."
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@setting_options(
    ("fuse.inputs", "Names of encoders, such as image,text."),
    ("fuse.seeds", "Number of seeds. Their mean is compared."),
    *DECISION[:1],
)
@overwrite_option
@click.pass_context
def heads_command(context: click.Context, names: tuple[str, ...], overwrite: bool, **options: Any) -> None:
    """Train heads and compare them with encoders and means. Without NAME: all heads that take the project's inputs."""
    from mmfeat.workflows.compare_heads import compare_heads

    tables = dict.fromkeys((*(f"fuse.{head}" for head in names or HEADS), "fuse.linear"))
    project = open_project(context, options, ("fuse.inputs", "fuse.seeds", *tables, "predict", *TOP))
    result = compare_heads(project, list(names), overwrite=overwrite)
    _echo_failed(result)
    _echo_tables(result)
    explain(result.table.notes)
    echo_next(_made(project, result), result.after)


@compare_command.command(
    "encoders", cls=Command, short_help="Train encoders and compare their metrics, sizes and speed."
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--freeze", is_flag=True, help="Keep pretrained encoders; fit only linear probes, on cached features.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Fits of each encoder.")
@click.option("--use", metavar="NAME", help="Use an encoder in the project: a name in the table, or best.")
@setting_options(*DECISION[:1])
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
    """Train encoders on the same split and compare size, time, metrics and speed.

    NAME is an encoder of mmfeat.toml, a model of timm, torchvision or transformers, or MODEL=FILE with a file of weights
    (MODEL=random: random weights). image:MODEL and text:MODEL state the modality. Without NAME: all encoders of mmfeat.toml.
    """
    from mmfeat.inference.next_commands import after_finetune
    from mmfeat.workflows.compare_encoders import advises_best, compare_encoders, use_encoders

    project = open_project(
        context, options, (*([] if freeze else ["finetune"]), "fuse.linear", "engine", "predict", *TOP)
    )
    result = compare_encoders(project, list(names), freeze=freeze, seeds=seeds, overwrite=overwrite)
    _echo_failed(result)
    table = result.table
    _echo_tables(result)
    echo("")
    echo(table.by_class)
    explain(table.about_classes)
    explain(f"\n{table.notes}\n")
    for line in table.layout.conclusions:
        echo(line)
    if use is None:
        advised = advises_best(project, result)
        echo_next(_made(project, result), f"{typed_again()} --use best" if advised else after_finetune(project))
        return
    echo(_made(project, result))
    used = use_encoders(project, result, use)
    for one in used:
        for text in one.lines:
            echo(text)
    echo_next(
        "; ".join(one.made for one in used) + ".",
        after_finetune(project.reopened()) if all(one.in_use for one in used) else "mmfeat status",
    )


def _echo_tables(result: ComparisonResult) -> None:
    echo(result.table.main)
    for further in filter(None, (result.table.further, result.table.in_sample)):
        echo("")
        echo(further)


def _echo_failed(result: ComparisonResult) -> None:
    from mmfeat.common.text import shown

    for label, why in result.failed.items():
        note(f"Note: {shown(label)} is not compared: {shown(why, 300)}")


def _made(project: Project, result: ComparisonResult) -> str:
    files = ", ".join(path.name for path in result.files)
    return f"{'Made' if result.made else 'Already made:'} {result.folder.relative_to(project.root)}: {files}."
