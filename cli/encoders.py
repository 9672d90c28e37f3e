"""`mmfeat encoders`."""

from __future__ import annotations

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


@click.command(
    "encoders",
    cls=Command,
    modes=(MODES,),
    short_help="Sizes of the project's encoders and of usual ones; find others by name.",
)
@click.argument("pattern", required=False)
@click.pass_context
def encoders_command(context: click.Context, pattern: str | None) -> None:
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
        f'model = "{listed.models[0].model}" under [encoder.NAME] of mmfeat.toml, then: mmfeat extract',
    )


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
