"""`mmfeat sweep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.options import DECISION, TOP, overrides_of, overwrite_option, setting_options, typed_again
from mmfeat.cli.printing import echo, echo_next, explain, note
from mmfeat.cli.strict import Command, refuse_unread

from mmfeat.common.text import counted
from mmfeat.training.cell_lists import EXAMPLE, listed_cells

if TYPE_CHECKING:
    from mmfeat.training.sweep_run import SweepResult

SHOWN = 20


def list_options(command: Callable) -> Callable:
    """The options that list cells, or take those of earlier sweeps."""
    text = "Show the cells of earlier sweeps too, if their fits are kept for the current rows."
    command = click.option("--earlier", is_flag=True, help=text)(command)
    text = "TOML file with a table [[cell]] for each cell."
    command = click.option("--cells", "file", metavar="FILE", help=text)(command)
    text = f"One cell, such as {EXAMPLE}, instead of every combination. Repeatable."
    return click.option("--cell", "listed", multiple=True, metavar="KEY=VALUE,...", help=text)(command)


@click.group("sweep", short_help="Grids of settings: which are best, and which matter.")
def sweep_command() -> None:
    """Train grids of settings and compare them on val. Nothing that the project uses changes."""


@sweep_command.command("fuse", cls=Command)
@setting_options(
    ("fuse.head", "Names of heads, such as linear,crossattn."),
    ("fuse.lr", "Learning rates, such as 3e-4,1e-3."),
    ("fuse.dropout", "Dropout rates, such as 0.1,0.3."),
    ("fuse.inputs", "Names of encoders, such as image,text."),
    ("fuse.seeds", "Number of seeds of each cell."),
    *DECISION[:1],
)
@list_options
@overwrite_option
@click.pass_context
def fuse_command(
    context: click.Context, overwrite: bool, listed: tuple[str, ...], file: str | None, earlier: bool, **options: Any
) -> None:
    """Train a grid of heads on cached features.

    Other keys are swept by --set fuse.KEY=A,B or --set fuse.HEAD.KEY=A,B.
    """
    from mmfeat.report.sweep_table import sweep_table
    from mmfeat.workflows.sweep_fuse import sweep_fuse

    overrides = overrides_of(options)
    refuse_unread(context, [key for key in overrides if key == "fuse.folds"], ["fuse without folds"])
    refuse_unread(context, overrides, ("fuse", "predict", *TOP))
    cells = listed_cells(listed, file)
    result = sweep_fuse(context.obj, overrides, cells=cells, earlier=earlier, overwrite=overwrite)
    for line in result.notes:
        note(f"Note: {line}")
    echo(sweep_table(f"{counted(result.n_val, 'val row')}", result.cells, result.metric, most=SHOWN))
    if len(result.cells) > SHOWN:
        echo(f"and {len(result.cells) - SHOWN:,} more in sweeps/{result.file.name}")
    spread = "± is the standard deviation over seeds; " if len(result.cells[0].fits) > 1 else ""
    explain(
        f"{spread}seconds: the share of one head in its pass. Epochs and the best cell were selected on these rows: the best "
        "of many looks better than it is."
    )
    _echo_effects(result)
    if result.effects:
        explain("Shares of the variance over all heads. The rest is between seeds and in combinations of settings.")
    echo_next(f"{_made(result)} ({counted(result.n_fits, 'head')}, {result.n_trained:,} trained now).", result.after)


@sweep_command.command("finetune", cls=Command)
@click.argument("name", metavar="ENCODER")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Fits of each cell.")
@click.option("--use", metavar="N", help="Use one cell's checkpoint in the project: best, or the number of its row.")
@setting_options(
    ("finetune.lr", "Learning rates, such as 1e-4,5e-4."),
    ("finetune.batch_size", "Batch sizes, such as 64,256."),
    ("finetune.optimizer", "Optimizers, such as adam,adamw."),
    ("finetune.epochs", "Maximum numbers of epochs, such as 10,20."),
    *DECISION[:1],
)
@list_options
@overwrite_option
@click.pass_context
def finetune_command(
    context: click.Context,
    name: str,
    seeds: int,
    use: str | None,
    overwrite: bool,
    listed: tuple[str, ...],
    file: str | None,
    earlier: bool,
    **options: Any,
) -> None:
    """Fine-tune one encoder with a grid of settings.

    Other keys are swept by --set finetune.KEY=A,B.
    """
    from mmfeat.inference.next_commands import after_finetune
    from mmfeat.report.sweep_table import sweep_table
    from mmfeat.training.in_sample import IN_SAMPLE
    from mmfeat.workflows.sweep_finetune import best_is_in_use, sweep_finetune, use_cell

    overrides = overrides_of(options)
    refuse_unread(context, overrides, ("finetune", "fuse.linear", "engine", "predict", *TOP))
    cells = listed_cells(listed, file)
    result = sweep_finetune(
        context.obj, name, overrides, cells=cells, earlier=earlier, seeds=seeds, overwrite=overwrite
    )
    for line in result.notes:
        note(f"Note: {line}")
    echo(sweep_table(f"{counted(result.n_val, 'val row')}", result.cells, result.metric, in_sample=True))
    spread = "± is the standard deviation over seeds. " if seeds > 1 else ""
    explain(
        f"{spread}In-sample metrics: on up to {IN_SAMPLE:,} training rows, with the weights of the best epoch. If they are "
        "far better than on val, the encoder overfits. For an ensemble, use the lowest loss, not the best F1. Epochs and "
        "the best cell were selected on these rows: the best of many looks better than it is."
    )
    _echo_effects(result)
    made = _made(result)
    made += f" ({counted(result.n_fits, 'fit')}, {result.n_trained:,} trained now; {result.kept_mb:,.1f} MB of weights kept)."
    if use is None:
        done = best_is_in_use(result)
        echo_next(made, after_finetune(result.grid.project) if done else f"{typed_again()} --use best")
        return
    echo(made)
    used, settings = use_cell(result, use)
    for line in [*used.lines, "For the same checkpoint by mmfeat finetune, write into mmfeat.toml:", "", *settings, ""]:
        echo(line)
    echo_next(f"{used.made}.", after_finetune(result.grid.project.reopened()))


def _echo_effects(result: SweepResult) -> None:
    from mmfeat.report.sweep_table import effects_table

    if result.effects:
        echo("")
        echo(effects_table(result.effects, result.metric))


def _made(result: SweepResult) -> str:
    return f"{'Made' if result.n_trained else 'Already made:'} sweeps/{result.file.name}"
