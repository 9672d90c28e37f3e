"""`mmfeat extract`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, echo_problems, open_project, setting_options

SHOWN_REASONS = 5


@click.command("extract", short_help="Encode what the feature store lacks, and only that.")
@click.argument("names", nargs=-1, metavar="[ENCODER]...")
@setting_options()
@click.pass_context
def extract_command(context: click.Context, names: tuple[str, ...], **options: Any) -> None:
    """Encode each image and caption once, into the feature store: embeddings, and logits where there is a checkpoint."""
    from mmfeat.report.tables import shown
    from mmfeat.workflows.extract import extract

    project = open_project(context, options)
    result = extract(project, list(names) or None)
    echo_problems(result.problems)
    for one in result.encoders:
        parts = [one.name, f"{one.cached:,} cached"]
        if one.encoded:
            total = sum(one.shares.values()) or 1.0
            shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in one.shares.items())
            parts += [f"{one.encoded:,} encoded", f"{one.unreadable:,} unreadable"]
            parts.append(f"{one.encoded / max(one.seconds, 1e-9):,.0f} rows/s: {shares}")
        else:
            parts.append("nothing to encode")
            parts += [f"{one.unreadable:,} unreadable"] if one.unreadable else []
        if one.absent:
            parts.append(f"{one.absent:,} absent")
        if result.logits[one.name]:
            parts.append(f"logits of {result.logits[one.name]:,}")
        click.echo("   ".join(parts))
        reasons = list(result.reasons[one.name].items())
        for sample, reason in reasons[:SHOWN_REASONS]:
            click.echo(f"   {shown(sample)}: {shown(reason, 100)}")
        if len(reasons) > SHOWN_REASONS:
            click.echo(f"   ... and {len(reasons) - SHOWN_REASONS:,} more")
    seconds = sum(one.seconds for one in result.encoders)
    path = project.config.store.path
    if any(one.encoded for one in result.encoders) or any(result.logits.values()):
        made = f"{path}/ holds {result.n_rows:,} rows of {len(result.encoders)} encoders ({result.size_mb:,.1f} MB)."
    else:
        made = f"{path}/ is up to date ({seconds:.1f} s)."
    echo_next(made, "mmfeat fuse --head crossattn")
