"""`mmfeat finetune`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.command("finetune", short_help="Fine-tune the encoders, each on its own modality.")
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@click.option(
    "--freeze", is_flag=True, help="Keep the pretrained encoder; fit only its linear output, on cached features."
)
@setting_options()
@click.pass_context
def finetune_command(context: click.Context, names: tuple[str, ...], freeze: bool, **options: Any) -> None:
    """Fine-tune the encoders (all, when none is named), each with a linear output on its own modality.

    Settings stand under [finetune.NAME] in mmfeat.toml; for one command: --set finetune.image.epochs=5.
    """
    from mmfeat.models.figures import FigureLine
    from mmfeat.report.tables import about_figures, figure_table, table
    from mmfeat.texts import counted, shown
    from mmfeat.workflows.finetune import finetune

    project = open_project(context, options)
    results, baseline = finetune(project, list(names) or None, freeze)
    rows = [[result.name, shown(result.model), f"{result.width}-d", result.note] for result in results]
    click.echo(table(("encoder", "model", "width"), rows, left=2))
    lines = [FigureLine.of(r.name, r.figures) for r in results if r.figures]
    if baseline and lines:
        title = counted(len(project.manifest.rows("val")), "val row")
        click.echo(figure_table(title, [FigureLine.of("commonest label", baseline), *lines]))
        click.echo(about_figures(lines[0].n_left_out, "these rows also chose the epochs"))
    for result in results:
        if result.remedy:
            click.echo(f"checkpoints/{result.checkpoint.name} is not in use. {result.remedy}")
    names_of = " and ".join(f"checkpoints/{r.checkpoint.name}" for r in results)
    made = "Made" if any(r.made for r in results) else "Already made:"
    echo_next(f"{made} {names_of}.", "mmfeat extract")
