"""`mmfeat extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import Shard, echo_problems, open_project, setting_options, typed_again
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import Command, Modes

from mmfeat.common.text import counted

if TYPE_CHECKING:
    from mmfeat.extraction import Extraction
    from mmfeat.project.project import Project
    from mmfeat.workflows.extract import ExtractDryRun, ExtractResult

SHOWN_REASONS = 5
MODES = Modes(
    of=lambda ctx: "dry" if ctx.params["dry_run"] else "run",
    texts={"dry": "--dry-run, which encodes and writes nothing", "run": "an extraction"},
    acts={"tune": ("run",), "on_error": ("run",), "devices": ("run",)},
)
ON = Modes(
    of=lambda ctx: "many" if ctx.params["devices"] is not None else "one",
    texts={"many": "--devices", "one": "one device"},
    acts={"tune": ("one",), "set_device": ("one",)},
)


@click.command(
    "extract", cls=Command, modes=(MODES, ON), short_help="Encode what the feature store lacks, and only that."
)
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@click.option(
    "--devices",
    metavar="LIST",
    help="Encode in a process for each device: GPUs such as 0,1; all; or cpu:N for N processes on the CPU.",
)
@click.option("--shard", type=Shard(), metavar="K/N", help="Only the K-th of N parts of the rows, such as 3/16.")
@click.option(
    "--on-error",
    default="record",
    type=click.Choice(["record", "stop"]),
    help="If a sample cannot be read: record the reason and continue, or stop. [default: record]",
)
@click.option("--tune", is_flag=True, help="First measure the fastest engine and settings here, and remember them.")
@click.option("--dry-run", is_flag=True, help="Write nothing. Show what would be done, with estimates of time and MB.")
@click.option("--rehash", is_flag=True, help="Read every image again instead of trusting its size, time and inode.")
@setting_options(top=("engine", "device"), sets=False)
@click.pass_context
def extract_command(
    context: click.Context,
    names: tuple[str, ...],
    devices: str | None,
    shard: tuple[int, int] | None,
    on_error: str,
    tune: bool,
    dry_run: bool,
    rehash: bool,
    **options: Any,
) -> None:
    """Encode each image and caption once, and keep the embeddings in the feature store.

    For encoders with a checkpoint, logits are computed too. Without ENCODER: all encoders. Any number of extractions may
    run at once on one store. To split the work, for example in a cluster's job array: mmfeat extract --shard 3/16.
    """
    from mmfeat.workflows.extract import extract, plan_extract

    project = open_project(context, options, ("engine", "device"), dry_run)
    if dry_run:
        _echo_plan(project, plan_extract(project, names, shard=shard, rehash=rehash), names)
        return
    result = extract(project, names, shard=shard, on_error=on_error, tune=tune, rehash=rehash, devices=devices)
    _echo_result(project, result, names, sharded=bool(shard))


def _echo_result(project: Project, result: ExtractResult, names: tuple[str, ...], *, sharded: bool) -> None:
    """What was done, encoder by encoder."""
    from mmfeat.common.text import shown
    from mmfeat.inference.next_commands import after_extract
    from mmfeat.report.table_layout import count, table

    echo_problems(result.problems)
    counts = ("cached", "encoded", "repeated", "unreadable", *(["left"] if sharded else []), "absent")
    rows = [
        [one.name, *(count(getattr(one, name)) for name in counts), _speed(one, result.logits[one.name])]
        for one in result.encoders
    ]
    echo(table(("encoder", *counts[:-1], "missing modality"), rows, title="rows"))
    for one in result.encoders:
        if one.tuned:
            echo(f"{one.name}: {one.tuned}")
        reasons = list(result.reasons[one.name].items())
        for sample, reason in reasons[:SHOWN_REASONS]:
            echo(f"{one.name}: {shown(sample)}: {shown(reason, 100)}")
        if len(reasons) > SHOWN_REASONS:
            echo(f"{one.name}: ... and {len(reasons) - SHOWN_REASONS:,} more")
        if one.advice:
            echo(f"{one.name}: {one.advice}")
    path = project.config.store.path
    if any(one.encoded or one.tokens for one in result.encoders) or any(result.logits.values()):
        of = f"{counted(result.n_rows, 'row')} of {counted(len(result.encoders), 'encoder')}"
        made = f"{path}/ holds {of} ({result.size_mb:,.1f} MB)."
    else:
        made = f"{path}/ is up to date ({sum(one.seconds for one in result.encoders):.1f} s)."
    left = any(one.left for one in result.encoders)
    echo_next(made, "the other shards" if left else after_extract(project, names))


def _speed(one: Extraction, n_logits: int) -> str:
    """How fast rows were encoded, and shares of the time."""
    text = "imported, nothing to encode" if one.imported else "nothing to encode"
    if one.encoded or one.tokens:
        total = sum(one.shares.values()) or 1.0
        waiting, encoding, writing = (one.shares[name] / total for name in ("decoding", "encoding", "writing"))
        rate = (one.encoded + one.tokens) / total
        text = f"{rate:,.0f} rows/s: waiting for decoding {waiting:.0%}, encoding {encoding:.0%}, writing {writing:.0%}"
    text += f"; tokens of {one.tokens:,}" if one.tokens else ""
    return text + (f"; logits of {n_logits:,}" if n_logits else "")


def _echo_plan(project: Project, result: ExtractDryRun, names: tuple[str, ...]) -> None:
    """What would be done, encoder by encoder."""
    from mmfeat.common.progress import clock
    from mmfeat.inference.next_commands import after_extract
    from mmfeat.report.table_layout import count, duration, number, table

    echo_problems(project.store.problems)
    counts = ("cached", "missing", "unreadable", "absent", "to_encode")
    rows = []
    for plan in result.encoders:
        work = [duration(plan.seconds if plan.to_encode else None), number(plan.mb, 1)]
        note = "imported, nothing to encode" if plan.imported else "" if plan.to_encode else "nothing to encode"
        note += f"{'; ' if note else ''}logits of {plan.to_logits:,}" if plan.to_logits else ""
        rows.append([plan.name, *(count(getattr(plan, name)) for name in counts), *work, note])
    head = ("encoder", "cached", "missing", "unreadable", "missing modality", "to encode", "about", "MB")
    echo(table(head, rows, title="rows"))
    path = project.config.store.path
    if result.nothing:
        echo_next(f"{path}/ is up to date: there is nothing to do.", after_extract(project, names))
        return
    about = f"about {clock(result.seconds)} and add {result.mb:,.1f} MB to {path}/"
    echo_next(f"Nothing was written. It would take {about}.", typed_again())
