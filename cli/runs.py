"""`mmfeat runs`."""

from __future__ import annotations

from typing import Any

import click
from mmfeat.cli.options import echo_next, open_project, setting_options


@click.command("runs", short_help="Every run on the val rows of today, best first.")
@setting_options(("predict.threshold", "A label needs a probability above it."))
@click.pass_context
def runs_command(context: click.Context, **options: Any) -> None:
    """List runs and encoders by the project's metric, best first, with the size of the whole model."""
    from mmfeat.report.tables import shown, table
    from mmfeat.workflows.runs import ranked_runs

    project = open_project(context, options)
    ranked = ranked_runs(project)
    if not ranked:
        echo_next("No runs yet.", "mmfeat fuse --head crossattn")
        return
    rows = []
    for line in ranked:
        cells = ["-", "-", "-"]
        if line.figures:
            s = line.figures.scores
            cells = [f"{s.samples_f1:.3f} ± {line.figures.half_width:.3f}", f"{s.macro_f1:.3f}", f"{s.map:.3f}"]
        state = line.state + (", transductive" if line.transductive else "")
        rows.append([line.name, shown(line.made_from, 40), *cells, f"{line.size_mb:,.1f}", shown(state, 100)])
    click.echo(table(("run", "made from", "samples-F1", "macro-F1", "mAP", "MB"), rows, left=2))
    n_val = len(project.manifest.rows("val"))
    names = [line.name for line in ranked if line.run is not None][:2]
    said = f"{len(ranked)} on {n_val:,} val rows, best {project.config.metric} first; MB is the whole model with its encoders."
    echo_next(said, f"mmfeat evaluate {' '.join(names)}".rstrip())
