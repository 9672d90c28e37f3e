"""`mmfeat encoders`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click
from mmfeat.cli.options import open_project
from mmfeat.cli.printing import echo, echo_next
from mmfeat.cli.strict import PROJECT, Command, Modes, typed

from mmfeat.common.text import counted, shown

if TYPE_CHECKING:
    from mmfeat.encoders.description import Description
    from mmfeat.report.table_layout import Table


MODES = Modes(
    of=lambda ctx: "pattern" if ctx.params["pattern"] else "list",
    texts={"pattern": "a PATTERN, which searches all models", "list": "the list of encoders"},
    acts={PROJECT: ("list",)},
)


class _ListByDefault(click.Group):
    """A group whose command `list` need not be typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command, list: a first word that is none is an argument or an option of `list`."""
        known = (*self.commands, *self.get_help_option_names(ctx))
        return super().parse_args(ctx, args if args and args[0] in known else ["list", *args])


@click.group(
    "encoders",
    cls=_ListByDefault,
    short_help="Sizes of the project's encoders and of usual ones; find others by name, and add one.",
)
def encoders_command() -> None:
    """List encoders, find models by name, or add an encoder to mmfeat.toml.

    mmfeat encoders PATTERN is short for mmfeat encoders list PATTERN.
    """


@encoders_command.command(
    "list", cls=Command, modes=(MODES,), short_help="List the project's encoders, or models by name."
)
@click.argument("pattern", required=False)
@click.pass_context
def list_command(context: click.Context, pattern: str | None) -> None:
    """List encoders with parameters, size, width and input: the project's and usual ones, or models that PATTERN matches.

    PATTERN is a part of a model's name, or contains *: mobilenet, "vit_*_224".
    """
    from mmfeat.workflows.encoders import encoders, models

    if pattern is None:
        if typed(context.find_root(), PROJECT):  # a project that is named must be there
            open_project(context, {}, dry=True)
        listed = encoders(context.obj)
        if listed.project:
            echo(_table(list(listed.project.values()), list(listed.project)))
            echo("")
        echo(_table(listed.models))
        echo_next(
            f"{counted(len(listed.models), 'usual encoder')}; MB in float32, without a classifier.",
            "mmfeat encoders PATTERN",
        )
        return
    listed = models(pattern)
    echo(_table(listed.models))
    more = f", and {listed.n_more:,} more match" if listed.n_more else ""
    echo_next(
        f"{counted(len(listed.models), 'model')}{more}. MB in float32, without a classifier.",
        f"mmfeat encoders add NAME --model {shlex.quote(listed.models[0].model)}",
    )


@encoders_command.command("add", cls=Command)
@click.argument("name")
@click.option(
    "--model",
    metavar="MODEL",
    help="Required. A model of timm or torchvision, a name or folder of transformers, or tfidf.",
)
@click.option("--modality", metavar="VALUE", help="image or text. [default: as NAME or the model says]")
@click.option(
    "--weights", default="", metavar="FILE", help="A .safetensors or .pth file, auto or random. [default: auto]"
)
@click.option("--input", "as_input", is_flag=True, help="Append it to inputs under [fuse], so that heads read it.")
@click.pass_context
def add_command(
    context: click.Context, name: str, model: str | None, modality: str | None, weights: str, as_input: bool
) -> None:
    """Add the encoder NAME to mmfeat.toml. The model and its weights are checked; nothing is downloaded."""
    from mmfeat.workflows.add_encoder import add_encoder

    if model is None:
        raise click.UsageError("--model is missing: name a model, or a folder of transformers", context)
    project = open_project(context, {})
    added = add_encoder(project, name, model, modality=modality, weights=weights, as_input=as_input)
    echo(added.about)
    echo_next(f"Added [encoder.{name}] to mmfeat.toml.", added.after)


def _table(lines: list[Description], names: list[str] | None = None) -> Table:
    from mmfeat.report.table_layout import number, outside, table

    rows = []
    for line in lines:
        parameters = number(None if line.parameters is None else line.parameters / 1e6, 1)
        cells = [parameters, number(line.size_mb, 1), line.width or "-", line.takes or "-", line.source or "-"]
        rows.append([outside(line.model), *cells, line.weights or "-", shown(line.note, 300)])
    head = ["model", "M parameters", "MB", "width", "input", "from", "weights"]
    if names is None:
        return table(head, rows, title="models")
    rows = [[outside(name), *row] for name, row in zip(names, rows, strict=True)]
    return table(["encoder", *head], rows, left=2, title="encoders of the project")
