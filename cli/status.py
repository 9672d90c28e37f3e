"""`mmfeat status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import TOP, echo_next, echo_one_class, echo_problems, open_project, setting_options
from mmfeat.cli.strict import Command, Modes

if TYPE_CHECKING:
    from mmfeat.project.project import Project

MODES = Modes(
    of=lambda ctx: "settings" if ctx.params["show_config"] else "features",
    texts={"settings": "--config, which shows only settings", "features": "mmfeat status without --config"},
    acts={
        "show_store": ("features",),
        "rehash": ("features",),
        **dict.fromkeys(("sets", *(f"set_{name}" for name in TOP)), ("settings",)),
    },
)

FLAT_SHOWN = 10  # ids of flat images


@click.command(
    "status", cls=Command, modes=(MODES,), short_help="Count cached, missing, stale and unreadable rows, and say why."
)
@click.option("--config", "show_config", is_flag=True, help="Show every setting with its value and origin.")
@click.option("--store", "show_store", is_flag=True, help="Show the contents of the store with size, age and users.")
@click.option("--rehash", is_flag=True, help="Read every image again instead of trusting its size, time and inode.")
@setting_options()
@click.pass_context
def status_command(context: click.Context, show_config: bool, show_store: bool, rehash: bool, **options: Any) -> None:
    """Show, for each encoder, how many rows are in the feature store, and which command to type next."""
    from mmfeat.common.text import counted, shown
    from mmfeat.report.text_tables import table

    project = open_project(context, options, (*TOP, "finetune", "fuse", "selftrain", "predict"))
    if show_config:
        origins = project.config.origins
        rows = [(key, shown(value, 200), origins.get(key, "default")) for key, value in project.config.dotted()]
        click.echo(table(("key", "value", "from"), rows, left=3))
        return
    from mmfeat.inference.next_commands import after_extract
    from mmfeat.workflows.status import status

    result = status(project, rehash)
    echo_one_class(project)
    echo_problems(result.problems)
    for line in result.damaged:
        click.echo(f"Note: {line}", err=True)
    rows = [
        (
            s.name,
            shown(s.model, 40),
            f"{s.cached:,}",
            f"{s.missing:,}",
            f"{s.stale:,}",
            f"{s.unreadable:,}",
            f"{s.absent:,}",
            s.why,
        )
        for s in result.encoders
    ]
    if rows:
        click.echo(
            table(("encoder", "model", "cached", "missing", "stale", "unreadable", "missing modality"), rows, left=2)
        )
    for name, checkpoint in result.checkpoints.items():
        bare = project.config.encoder[name].bare
        click.echo(f"{name}: " + (f"checkpoint {checkpoint}" if checkpoint else f"{bare}; no checkpoint, so no logits"))
    for reason in result.failures.values():
        click.echo(reason)
    if result.flat:
        some = ", ".join(shown(sample) for sample in result.flat[:FLAT_SHOWN])
        more = f" and {len(result.flat) - FLAT_SHOWN:,} more" if len(result.flat) > FLAT_SHOWN else ""
        click.echo(f"{counted(len(result.flat), 'image')} of one colour, or nearly so: {some}{more}")
    click.echo(f"{counted(result.n_rows, 'row')}, {counted(result.n_runs, 'run')}.")
    if result.unsealed:
        click.echo(f"{result.unsealed[0].upper()}{result.unsealed[1:]}.")
    if result.relabelled:
        click.echo(f"Trained on labels that have changed: {', '.join(map(shown, result.relabelled))}. See: mmfeat runs")
    if show_store:
        _echo_store(project)
    if result.failures:
        echo_next("An encoder cannot be built.", result.remedy)
    elif any(s.missing or s.stale or s.lacks_logits or s.lacks_tokens for s in result.encoders):
        hint = "" if result.has_outputs else " (or first: mmfeat finetune; without a GPU: mmfeat finetune --freeze)"
        echo_next("Features are missing.", f"mmfeat extract{hint}")
    else:
        echo_next("All features are cached.", after_extract(project))


def _echo_store(project: Project) -> None:
    """The contents of the store with size, age and users."""
    from mmfeat.common.text import shown
    from mmfeat.report.text_tables import table
    from mmfeat.workflows.status import store_status

    lines = store_status(project)
    if not lines:
        click.echo(f"{project.config.store.path}/ is empty.")
        return
    rows = []
    for line in lines:
        one = line.stored
        counts = (one.rows, one.segments, one.outputs, one.tokens)
        used = ", ".join(shown(name, 60) for name in line.used_by) or "nothing; to remove it: mmfeat store gc"
        rows.append(
            [one.name, *(f"{n:,}" for n in counts), f"{one.n_bytes / 1e6:,.1f}", one.created, one.written, used]
        )
    head = ("in the store", "rows", "segments", "probes", "tokens", "MB", "created (UTC)", "last write (UTC)")
    click.echo(table(head, rows))
    click.echo(f"{project.config.store.path}/ has {project.store.size_bytes / 1e6:,.1f} MB in all.")
