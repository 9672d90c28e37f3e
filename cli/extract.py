"""`mmfeat extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import echo_next, echo_problems, open_project, setting_options

if TYPE_CHECKING:
    from mmfeat.extract import Extraction

SHOWN_REASONS = 5


@click.command("extract", short_help="Encode what the feature store lacks, and only that.")
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@click.option("--rehash", is_flag=True, help="Read every image again instead of trusting size, time and inode.")
@setting_options()
@click.pass_context
def extract_command(context: click.Context, names: tuple[str, ...], rehash: bool, **options: Any) -> None:
    """Encode each image and caption once, into the feature store: embeddings, and logits where there is a checkpoint."""
    from mmfeat.report.tables import shown, table
    from mmfeat.workflows.extract import extract

    project = open_project(context, options)
    result = extract(project, list(names) or None, rehash=rehash)
    echo_problems(result.problems)
    counts = ("cached", "encoded", "repeated", "unreadable", "absent")
    rows = [
        [one.name, *(f"{getattr(one, count):,}" for count in counts), _speed(one, result.logits[one.name])]
        for one in result.encoders
    ]
    click.echo(table(("encoder", *counts), rows))
    for one in result.encoders:
        reasons = list(result.reasons[one.name].items())
        for sample, reason in reasons[:SHOWN_REASONS]:
            click.echo(f"{one.name}: {shown(sample)}: {shown(reason, 100)}")
        if len(reasons) > SHOWN_REASONS:
            click.echo(f"{one.name}: ... and {len(reasons) - SHOWN_REASONS:,} more")
    seconds = sum(one.seconds for one in result.encoders)
    path = project.config.store.path
    if any(one.encoded for one in result.encoders) or any(result.logits.values()):
        made = f"{path}/ holds {result.n_rows:,} rows of {len(result.encoders)} encoders ({result.size_mb:,.1f} MB)."
    else:
        made = f"{path}/ is up to date ({seconds:.1f} s)."
    echo_next(made, "mmfeat fuse --head crossattn")


def _speed(one: Extraction, n_logits: int) -> str:
    """How fast rows were encoded and where the time went."""
    text = "nothing to encode"
    if one.encoded:
        total = sum(one.shares.values()) or 1.0
        shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in one.shares.items())
        text = f"{one.encoded / max(one.seconds, 1e-9):,.0f} rows/s: {shares}"
    return text + (f"; logits of {n_logits:,}" if n_logits else "")
