"""`mmfeat export`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, deciding, echo_next, open_project, setting_options
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted


@click.command("export", cls=Command, short_help="One run as a folder that needs no project.")
@click.argument("run")
@click.argument("destination", metavar="DIR")
@click.option(
    "--dtype", default="float32", type=click.Choice(["float32", "float16"]), help="Of the weights as they are kept."
)
@click.option(
    "--format",
    "runtime",
    default="torch",
    type=click.Choice(["torch", "onnx"]),
    help="What is to run it. [default: torch]",
)
@setting_options(*DECISION, top=("metric", "device"))
@click.pass_context
def export_command(
    context: click.Context, run: str, destination: str, dtype: str, runtime: str, **options: Any
) -> None:
    """Write RUN (or an encoder with its own output) to DIR: encoders, heads, preprocessing, classes, a model card.

    The folder is compared with the cached features on some rows before it appears.
    """
    import shlex

    from mmfeat.common.text import shown
    from mmfeat.predictor.card import LIMIT_MB, limit_text
    from mmfeat.workflows.export import export

    project = open_project(context, options, deciding(True))
    result = export(project, run, destination, dtype, runtime)
    then = f"mmfeat predict new.csv --model {shlex.quote(shown(result.folder, 200))}"
    if not result.made:
        echo_next(f"Already made from the same: {shown(result.folder, 200)} ({result.size_mb:,.1f} MB).", then)
        return
    form = " as ONNX" if runtime == "onnx" else ""
    click.echo(f"{run}: {', '.join(result.encoders)} and heads in {dtype}{form}; {limit_text(result.size_mb)}")
    if result.size_mb > LIMIT_MB and dtype == "float32":
        click.echo("To halve it: --dtype float16")
    if result.unchecked:
        click.echo(f"Not compared with the cached features: {shown(result.unchecked, 200)}")
    else:
        click.echo(
            f"{counted(result.n_checked, 'row')} read again: probabilities differ from those of the cached features by at most "
            f"{result.difference:.1e}"
        )
    if result.n_run:
        click.echo(
            f"{counted(result.n_run, 'row')} by torch and onnxruntime: probabilities differ by at most {result.runtime_difference:.1e}"
        )
    elif runtime == "onnx":
        click.echo("Not compared with torch: no row could be read")
    folder = shown(result.folder, 200)
    echo_next(f"Made {folder}. Fill in the licences in its README.md.", then)
