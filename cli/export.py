"""`mmfeat export`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import DECISION, open_project, setting_options
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import Command

from mmfeat.common.text import counted
from mmfeat.config.read_keys import decision_keys


@click.command("export", cls=Command, short_help="Write one run as a folder that needs no project.")
@click.argument("run")
@click.argument("destination", metavar="DIR")
@click.option(
    "--dtype", default="float32", type=click.Choice(["float32", "float16"]), help="Type of the stored weights."
)
@click.option(
    "--format",
    default="torch",
    type=click.Choice(["torch", "onnx"]),
    help="What executes the model. [default: torch]",
)
@setting_options(*DECISION, top=("metric", "device", "heads_dtype"))
@click.pass_context
def export_command(context: click.Context, run: str, destination: str, dtype: str, format: str, **options: Any) -> None:
    """Write RUN to DIR: encoders, heads, preprocessing, classes and a model card.

    RUN may be an encoder with a linear probe. Before the folder appears, its predictions are compared with those of the
    cached features on some rows.
    """
    import shlex

    from mmfeat.common.text import shown
    from mmfeat.predictor.card import limit_text
    from mmfeat.workflows.export import export

    project = open_project(context, options, lambda config: (*decision_keys(config, True), "limit_mb", "heads_dtype"))
    limit = project.config.limit_mb
    result = export(project, run, destination, dtype=dtype, format=format)
    then = f"mmfeat predict new.csv --model {shlex.quote(shown(result.folder, 200))}"
    if not result.made:
        size = limit_text(result.size_mb, limit).rstrip(".")
        echo_next(f"Already made from the same: {shown(result.folder, 200)} ({size}).", then)
        return
    form = " as ONNX" if format == "onnx" else ""
    heads = project.config.heads_dtype if dtype == "float32" else dtype
    what = ", ".join(result.encoders) + (" and heads" if heads == dtype else "")
    dtypes = f"{dtype}{form}" if heads == dtype else f"{dtype}{form}, heads in {heads}"
    echo(f"{run}: {what} in {dtypes}; {limit_text(result.size_mb, limit)}")
    if 0 < limit < result.size_mb and dtype == "float32":
        also = "" if heads == "float16" else "; to halve only its heads: --heads-dtype float16"
        echo(f"To halve it: --dtype float16{also}")
    if result.unchecked:
        echo(f"Not compared with the cached features: {shown(result.unchecked, 200)}")
    else:
        by = f"differ from those of the cached features by at most {result.difference:.1e}"
        how = by if result.difference else "are those of the cached features"
        echo(f"{counted(result.n_checked, 'row')} read again: probabilities {how}")
    if result.n_run:
        echo(
            f"{counted(result.n_run, 'row')} by torch and onnxruntime: probabilities differ by at most {result.runtime_difference:.1e}"
        )
    elif format == "onnx":
        echo("Not compared with torch: no row could be read")
    folder = shown(result.folder, 200)
    echo_next(f"Made {folder}. Fill in the licences in its README.md.", then)
