"""What a command prints: text for people, or with `--json` one JSON document. `--quiet` leaves out notes and explanations.

Results go to stdout, notes and progress to stderr. docs/commands.md documents the JSON document.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import click

from mmfeat.common.progress import say
from mmfeat.report.table_layout import Table, about_hidden, terminal_width

FORMAT = 1  # of the JSON document
_KEY = "mmfeat.printer"  # in the context's meta
JSON_OPTION, QUIET_OPTION = "as_json", "quiet"


class Printer:
    """Prints the results of one command, at once as text or at its end as JSON.

    Attributes
    ----------
    document : dict
        The JSON document.
    hidden : list of str
        Columns that the terminal has no room for.
    """

    def __init__(self, command: str, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.document: dict[str, Any] = {"command": command, "format": FORMAT, "tables": [], "lines": []}
        self.document |= {"made": "", "next": ""}
        self.hidden: list[str] = []

    def show(self, what: Table | str) -> None:
        """Print a table or lines."""
        if isinstance(what, Table):
            width = terminal_width()
            self.document["tables"].append(what.as_json())
            self.hidden += what.hidden(width)
            self._print(what.text(width))
            return
        self.document["lines"] += [line for line in what.splitlines() if line.strip()]
        self._print(what)

    def end(self, made: str, command: str) -> None:
        """Print the last line."""
        self.document |= {"made": made, "next": command}
        self._print_hidden()
        self._print(made if self.quiet else f"{made} Next: {command}")

    def close(self) -> None:
        """Print what is left: the JSON document."""
        self._print_hidden()
        if self.as_json:
            click.echo(json.dumps(self.document, allow_nan=False))

    def _print_hidden(self) -> None:
        if self.hidden and not self.quiet:
            self._print(about_hidden(self.hidden, "--json, a file, a wider terminal"))
        self.hidden = []

    def _print(self, text: str) -> None:
        if not self.as_json:
            click.echo(text)


def open_printer(ctx: click.Context) -> Printer:
    """The printer of a command that starts; its options are read from the context."""
    words, at = [], ctx
    while at.parent is not None:
        words, at = [at.command.name, *words], at.parent
    printer = Printer(
        " ".join(words), as_json=ctx.meta.get(JSON_OPTION, False), quiet=ctx.meta.get(QUIET_OPTION, False)
    )
    ctx.meta[_KEY] = printer
    return printer


def _printer() -> Printer:
    return click.get_current_context().meta[_KEY]


def echo(what: Table | str) -> None:
    """Print a table or lines of a result."""
    _printer().show(what)


def explain(text: str) -> None:
    """Print how a result is read; `--quiet` leaves it out."""
    if text and not _printer().quiet:
        _printer().show(text)


def note(text: str) -> None:
    """Print a note on stderr, unless `--quiet` is typed."""
    say(text)


def echo_next(made: str, command: str) -> None:
    """The last line of every command: what was made, and the command to type next, with `--project` if it was typed."""
    _printer().end(made, _in_project(command))


_OF_PROJECTS = "init|reproduce|finetune|extract|status|fuse|sweep|ensemble|selftrain|audit|review|predict|evaluate|compare|runs|report|search|export|store|encoders"


def _in_project(text: str) -> str:
    from mmfeat.cli.strict import PROJECT, typed  # which prints through this module

    root = click.get_current_context().find_root()
    if not typed(root, PROJECT) or "--project" in text or "--model" in text:
        return text
    return re.sub(rf"\bmmfeat (?=({_OF_PROJECTS})\b)", lambda _: f"mmfeat --project {shlex.quote(root.obj)} ", text)


def output_options(tables: bool = True) -> list[click.Option]:
    """The options of every command: `--quiet`, and `--json` if it has results to print."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[parameter.name] = value

    as_json = click.Option(
        ["--json", JSON_OPTION],
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="Print the results as one JSON document, with all columns and full precision.",
    )
    quiet = click.Option(
        ["--quiet", "-q"],
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="No progress, notes or explanations: only results and errors.",
    )
    return [*([as_json] if tables else []), quiet]
