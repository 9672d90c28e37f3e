"""`mmfeat finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import open_project, setting_options, typed_again
from mmfeat.cli.printing import echo, echo_next, explain
from mmfeat.cli.strict import Command, Modes

if TYPE_CHECKING:
    from mmfeat.config.schema import Config
    from mmfeat.project.project import Project
    from mmfeat.workflows.finetune import FinetuneDryRun, FinetuneResult


ON = Modes(
    of=lambda ctx: "many" if ctx.params["devices"] is not None else "one",
    texts={"many": "--devices", "one": "one device"},
    acts={"freeze": ("one",), "dry_run": ("one",), "set_device": ("one",)},
)


@click.command("finetune", cls=Command, modes=(ON,), short_help="Fine-tune the encoders, each on its own modality.")
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@click.option(
    "--freeze", is_flag=True, help="Keep the pretrained encoder. Fit only its linear probe, on cached features."
)
@click.option(
    "--devices",
    metavar="LIST",
    help="Divide each batch among devices, with a process for each: GPUs such as 0,1; all; or cpu:N for N processes on the CPU.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing. Show what would be done, with estimates of time and MB.")
@setting_options(
    ("finetune.recipe", "Default settings: the best in our benchmarks, or those of the paper."),
    ("finetune.synonyms", "A file of words that may replace one another: one group a line, separated by commas."),
)
@click.pass_context
def finetune_command(
    context: click.Context, names: tuple[str, ...], freeze: bool, devices: str | None, dry_run: bool, **options: Any
) -> None:
    """Fine-tune encoders, each with a linear classifier on its own modality. Without ENCODER: all encoders.

    Settings are under [finetune.NAME] in mmfeat.toml. To override one for this command: --set finetune.image.epochs=5.
    """

    def reads(config: Config) -> tuple[str, ...]:
        from mmfeat.config.read_keys import finetune_keys

        return finetune_keys(config, names, freeze)

    project = open_project(context, options, reads, dry_run)
    from mmfeat.workflows.finetune import finetune, plan_finetune

    if dry_run:
        _echo_plan(project, plan_finetune(project, names, freeze=freeze))
    else:
        _echo_result(project, finetune(project, names, freeze=freeze, devices=devices))


def _echo_result(project: Project, result: FinetuneResult) -> None:
    """The checkpoints, and their metrics on val."""
    from mmfeat.common.text import counted
    from mmfeat.inference.next_commands import after_finetune
    from mmfeat.report.table_layout import Cell, outside, table
    from mmfeat.report.text_tables import about_metrics, metric_table

    rows = [[one.name, outside(one.model), Cell(f"{one.width}-d", one.width), one.note] for one in result.encoders]
    echo(table(("encoder", "model", "width"), rows, left=2, title="encoders"))
    if lines := result.lines:
        echo(metric_table(counted(len(project.manifest.rows("val")), "val row"), lines))
        explain(about_metrics(lines[-1], "epochs were selected on these rows"))
    for one in result.encoders:
        if one.remedy:
            echo(f"checkpoints/{one.checkpoint.name} is not in use. {one.remedy}")
    names = " and ".join(f"checkpoints/{one.checkpoint.name}" for one in result.encoders)
    echo_next(f"{'Made' if result.made else 'Already made:'} {names}.", after_finetune(project.reopened()))


def _echo_plan(project: Project, result: FinetuneDryRun) -> None:
    """What would be done, encoder by encoder."""
    from mmfeat.common.progress import clock
    from mmfeat.inference.next_commands import after_finetune
    from mmfeat.report.table_layout import duration, number, outside, table

    plans = result.encoders
    rows = [
        [
            plan.name,
            outside(plan.model),
            duration(plan.seconds or None),
            number(plan.checkpoint_mb, 1),
            number(plan.store_mb, 1),
            plan.what,
        ]
        for plan in plans
    ]
    echo(table(("encoder", "model", "about", "checkpoint MB", "store MB"), rows, left=2, title="encoders"))
    if result.nothing:
        made = " and ".join(f"checkpoints/{plan.made}" for plan in plans)
        echo_next(f"Already made: {made}.", after_finetune(project.reopened()))
        return
    checkpoints, store = (sum(getattr(plan, name) for plan in plans) for name in ("checkpoint_mb", "store_mb"))
    added = f"{checkpoints:,.1f} MB to checkpoints/ and {store:,.1f} MB to {project.config.store.path}/"
    echo_next(f"Nothing was written. It would take about {clock(result.seconds)} and add {added}.", typed_again())
