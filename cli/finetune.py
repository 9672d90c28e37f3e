"""`mmfeat finetune`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import TOP, echo_next, open_project, setting_options, typed_again
from mmfeat.cli.strict import Command

if TYPE_CHECKING:
    from mmfeat.config.schema import Config
    from mmfeat.project.project import Project


@click.command("finetune", cls=Command, short_help="Fine-tune the encoders, each on its own modality.")
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@click.option(
    "--freeze", is_flag=True, help="Keep the pretrained encoder; fit only its linear output, on cached features."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done, about how long and how many MB.")
@setting_options(
    ("finetune.recipe", "Where settings begin: as our benchmarks measured, or as the paper's."),
    ("finetune.synonyms", "A file of words that may replace one another: a group a line, commas between."),
)
@click.pass_context
def finetune_command(
    context: click.Context, names: tuple[str, ...], freeze: bool, dry_run: bool, **options: Any
) -> None:
    """Fine-tune the encoders (all, when none is named), each with a linear output on its own modality.

    Settings stand under [finetune.NAME] in mmfeat.toml; for one command: --set finetune.image.epochs=5.
    """
    reads = functools.partial(_reads, names, freeze)
    if dry_run:
        _echo_plan(open_project(context, options, reads, dry_run), list(names) or None, freeze)
        return
    from mmfeat.common.text import counted, shown
    from mmfeat.metrics.metric_rows import MetricRow
    from mmfeat.report.text_tables import MOST_FREQUENT, about_metrics, metric_table, table
    from mmfeat.workflows.finetune import finetune

    project = open_project(context, options, reads)
    results, baseline = finetune(project, list(names) or None, freeze)
    rows = [[result.name, shown(result.model), f"{result.width}-d", result.note] for result in results]
    click.echo(table(("encoder", "model", "width"), rows, left=2))
    lines = [MetricRow.of(r.name, r.metrics) for r in results if r.metrics]
    if baseline and lines:
        title = counted(len(project.manifest.rows("val")), "val row")
        click.echo(metric_table(title, [MetricRow.of(MOST_FREQUENT, baseline), *lines]))
        click.echo(about_metrics(lines[0].n_left_out, "these rows also chose the epochs"))
    for result in results:
        if result.remedy:
            click.echo(f"checkpoints/{result.checkpoint.name} is not in use. {result.remedy}")
    names_of = " and ".join(f"checkpoints/{r.checkpoint.name}" for r in results)
    made = "Made" if any(r.made for r in results) else "Already made:"
    echo_next(f"{made} {names_of}.", "mmfeat extract")


def _echo_plan(project: Project, names: list[str] | None, freeze: bool) -> None:
    """What would be done, encoder by encoder."""
    from mmfeat.common.progress import clock
    from mmfeat.common.text import shown
    from mmfeat.report.text_tables import table
    from mmfeat.workflows.finetune import plan_finetune

    plans = plan_finetune(project, names, freeze)
    rows = [
        [
            p.name,
            shown(p.model),
            clock(p.seconds) if p.seconds else "-",
            f"{p.checkpoint_mb:,.1f}",
            f"{p.store_mb:,.1f}",
            p.what,
        ]
        for p in plans
    ]
    path = project.config.store.path
    click.echo(table(("encoder", "model", "about", "checkpoint MB", "store MB"), rows, left=2))
    if all(plan.nothing for plan in plans):
        echo_next(f"Already made: {' and '.join(f'checkpoints/{plan.made}' for plan in plans)}.", "mmfeat extract")
        return
    seconds, checkpoints = sum(plan.seconds for plan in plans), sum(plan.checkpoint_mb for plan in plans)
    added = f"{checkpoints:,.1f} MB to checkpoints/ and {sum(plan.store_mb for plan in plans):,.1f} MB to {path}/"
    echo_next(f"Nothing was written. It would take about {clock(seconds)} and add {added}.", typed_again())


def _reads(names: tuple[str, ...], freeze: bool, config: Config) -> tuple[str, ...]:
    """What of mmfeat.toml makes the checkpoints: of frozen encoders, and of words, only the linear head's settings."""
    from mmfeat.config.schema import TFIDF

    named = [name for name in names or config.encoder if name in config.encoder]
    tuned = [] if freeze else [name for name in named if config.encoder[name].model != TFIDF]
    keys = [f"finetune.{name}" for name in tuned]
    keys += ["finetune.recipe"] if tuned else []
    keys += ["finetune.synonyms"] if any(config.encoder[name].modality == "text" for name in tuned) else []
    if len(tuned) < len(named) or any(config.finetune_of(name).head_first for name in tuned):
        keys.append("fuse.linear")
    return (*keys, "predict", *TOP)
