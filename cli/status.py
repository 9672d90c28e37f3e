"""`mmfeat status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import TOP, echo_one_class, echo_problems, open_project, setting_options
from mmfeat.cli.printing import echo, echo_next, note
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
    from mmfeat.report.table_layout import Cell, count, outside, table

    project = open_project(context, options, (*TOP, "engine", "finetune", "fuse", "selftrain", "predict"))
    if show_config:
        origins = project.config.origins
        rows = [
            (key, Cell(shown(value, 200), value), origins.get(key, "default")) for key, value in project.config.dotted()
        ]
        echo(table(("key", "value", "from"), rows, left=3, title="settings", keep=["from"]))
        return
    from mmfeat.inference.next_commands import after_extract
    from mmfeat.workflows.status import status

    result = status(project, rehash)
    echo_one_class(project)
    echo_problems(result.problems)
    for line in result.damaged:
        note(f"Note: {line}")
    rows = [
        (
            s.name,
            outside(s.model, 40),
            *map(count, (s.cached, s.missing, s.stale, s.unreadable, s.absent)),
            s.why,
        )
        for s in result.encoders
    ]
    if rows:
        head = ("encoder", "model", "cached", "missing", "stale", "unreadable", "missing modality")
        echo(table(head, rows, left=2, title="rows"))
    for name, checkpoint in result.checkpoints.items():
        bare = project.config.encoder[name].bare
        echo(f"{name}: " + (f"checkpoint {checkpoint}" if checkpoint else f"{bare}; no checkpoint, so no logits"))
    for reason in result.failures.values():
        echo(reason)
    if result.flat:
        some = ", ".join(shown(sample) for sample in result.flat[:FLAT_SHOWN])
        more = f" and {len(result.flat) - FLAT_SHOWN:,} more" if len(result.flat) > FLAT_SHOWN else ""
        echo(f"{counted(len(result.flat), 'image')} of one colour, or nearly so: {some}{more}")
    echo(f"{counted(result.n_rows, 'row')}, {counted(result.n_runs, 'run')}.")
    if result.unsealed:
        echo(f"{result.unsealed[0].upper()}{result.unsealed[1:]}.")
    if result.relabelled:
        echo(f"Trained on labels that have changed: {', '.join(map(shown, result.relabelled))}. See: mmfeat runs")
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
    from mmfeat.report.table_layout import Cell, count, number, table
    from mmfeat.workflows.status import store_status

    lines = store_status(project)
    if not lines:
        echo(f"{project.config.store.path}/ is empty.")
        return
    rows = []
    for line in lines:
        one = line.stored
        counts = (one.rows, one.segments, one.outputs, one.tokens)
        used = ", ".join(shown(name, 60) for name in line.used_by) or "nothing; to remove it: mmfeat store gc"
        size = number(one.n_bytes / 1e6, 1)
        rows.append([one.name, *map(count, counts), size, one.created, one.written, Cell(used, list(line.used_by))])
    head = ("in the store", "rows", "segments", "probes", "tokens", "MB", "created (UTC)", "last write (UTC)")
    echo(table(head, rows, title="store", first="features"))
    echo(f"{project.config.store.path}/ has {project.store.size_bytes / 1e6:,.1f} MB in all.")
