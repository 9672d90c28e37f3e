"""Strict commands: an option that would have no effect is a usage error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from mmfeat.cli.printing import open_printer, output_options

_NAMED = 3  # keys that a message names
PROJECT = "folder"  # the parameter of `mmfeat --project`


@dataclass(frozen=True)
class Modes:
    """The modes of a command, and the options that have an effect in each.

    Attributes
    ----------
    of : callable
        From the parameters that were typed to the name of the mode. Raises UsageError if they fit no mode.
    texts : dict of str to str
        Name of a mode to its words in a message: `--split cannot be used with a table`.
    acts : dict of str to tuple of str
        Parameter to the modes in which it has an effect. Others have one in all modes. `folder` is `mmfeat --project`.
    """

    of: Callable[[click.Context], str]
    texts: dict[str, str]
    acts: dict[str, tuple[str, ...]]


class Command(click.Command):
    """A command that refuses options without effect, options given twice or empty, and URLs in place of paths.

    Parameters
    ----------
    modes : tuple of Modes
        The parameters must fit a mode of each.
    in_project : bool
        Whether the command uses a project, and therefore `mmfeat --project`.
    free : collection of str
        Parameters that may be any text, also an empty one or a URL.
    prints : bool
        Whether the command has results to print, and therefore `--json`.
    """

    def __init__(
        self,
        *args: Any,
        modes: tuple[Modes, ...] = (),
        in_project: bool = True,
        free: Collection[str] = (),
        prints: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params += output_options(prints)
        self.modes, self.in_project, self.free = modes, in_project, frozenset(free)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line, and refuse words without effect."""
        words = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            self._name_key(error)
            raise
        if not ctx.resilient_parsing:
            refuse_repeated(ctx, words)
            self._refuse_texts(ctx)
            self._refuse_idle(ctx)
        return rest

    def _name_key(self, error: click.NoSuchOption) -> None:
        """Add to the message how to type an unknown option that is a key of mmfeat.toml."""
        if any(parameter.name == "sets" for parameter in self.params):
            from mmfeat.config.schema import HEAD, Config

            name = error.option_name.lstrip("-").replace("-", "_")
            keys = [key for key, _ in Config().dotted() if key.rpartition(".")[2] == name]
            if keys:
                keys.sort(key=lambda key: not key.startswith(f"fuse.{HEAD}."))  # the default head's key first
                typed_as = " or ".join(f"--set {key}=..." for key in keys[:_NAMED])
                error.message = f"{error.message.rstrip('.')}. A key of mmfeat.toml is set by: {typed_as}"
                error.possibilities = None

    def invoke(self, ctx: click.Context) -> None:
        """Run the command, then print its results as JSON if `--json` is typed. It may return an exit code."""
        from mmfeat.common.progress import quiet

        printer = open_printer(ctx)
        with quiet(printer.quiet):
            code = super().invoke(ctx)
            printer.close()
        if code:
            ctx.exit(code)

    def _refuse_texts(self, ctx: click.Context) -> None:
        from mmfeat.common.urls import refuse_url

        for parameter in self.params:
            if parameter.name in self.free or not typed(ctx, parameter.name):
                continue
            for text in _texts(ctx.params.get(parameter.name)):
                if not text.strip() and not parameter.name.startswith("set_"):
                    raise click.UsageError(f"{_name(parameter)} is empty: leave it out, or give a value", ctx)
                refuse_url(text, text.partition("=")[2])

    def _refuse_idle(self, ctx: click.Context) -> None:
        if not self.in_project and _project_typed(ctx):
            raise click.UsageError(f"--project cannot be used with mmfeat {self.name}, which works without one", ctx)
        folder = ctx.find_root().params.get(PROJECT, ".")
        if _project_typed(ctx) and self.name != "init" and not Path(folder).is_dir():  # not one of the folders above it
            raise click.UsageError(f"--project {folder}: no such folder", ctx)
        for modes in self.modes:
            mode = modes.of(ctx)
            for parameter in self.params:
                if typed(ctx, parameter.name) and mode not in modes.acts.get(parameter.name, (mode,)):
                    raise click.UsageError(f"{_name(parameter)} cannot be used with {modes.texts[mode]}", ctx)
            if _project_typed(ctx) and mode not in modes.acts.get(PROJECT, (mode,)):
                raise click.UsageError(f"--project cannot be used with {modes.texts[mode]}", ctx)


def refuse_repeated(ctx: click.Context, words: list[str]) -> None:
    """Refuse an option that is given twice: only the last would have an effect."""
    _, _, order = ctx.command.make_parser(ctx).parse_args(args=list(words))
    seen = set()
    for parameter in order:
        if isinstance(parameter, click.Option) and not parameter.multiple and not parameter.is_flag:
            if parameter.name in seen:
                raise click.UsageError(f"{parameter.opts[0]} is given twice. Give it once", ctx)
            seen.add(parameter.name)


def typed(ctx: click.Context, name: str) -> bool:
    """Whether a parameter was typed, with any value."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _project_typed(ctx: click.Context) -> bool:
    return typed(ctx.find_root(), PROJECT)


def refuse_unread(ctx: click.Context, keys: Collection[str], reads: Collection[str]) -> None:
    """Refuse options and `--set` for keys of mmfeat.toml that a command does not read; see :func:`about_unread`."""
    from mmfeat.config.read_keys import about_unread

    if message := about_unread(keys, reads):
        raise click.UsageError(message, ctx)


def _texts(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, tuple | list) else [value]:
        if isinstance(one, str):
            yield one


def _name(parameter: click.Parameter) -> str:
    return parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.make_metavar(_NO_CONTEXT))


_NO_CONTEXT = click.Context(click.Command("mmfeat"))
