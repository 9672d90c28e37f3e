"""Commands that ignore nothing that was typed: an option acts, or it is a usage error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

PROJECT = "folder"  # the parameter of `mmfeat --project`


@dataclass(frozen=True)
class Modes:
    """In which ways a command works, and which of its options act in which.

    Attributes
    ----------
    of : callable
        What was typed, by parameter, to the name of the mode. Raises UsageError where it is none.
    texts : dict of str to str
        Name to what a message says: `--split does not go with a table`.
    acts : dict of str to tuple of str
        Parameter to the modes in which it acts; one that is not named acts in all. `folder` is `mmfeat --project`.
    """

    of: Callable[[click.Context], str]
    texts: dict[str, str]
    acts: dict[str, tuple[str, ...]]


class Command(click.Command):
    """A command that refuses what it would ignore: options without effect, given twice or empty, and URLs for paths.

    Parameters
    ----------
    modes : tuple of Modes
        Of each, what was typed must fit the mode.
    in_project : bool
        Whether the command looks for a project, so that `mmfeat --project` means something.
    free : collection of str
        Parameters that may be any text, also an empty one or a URL.
    """

    def __init__(
        self,
        *args: Any,
        modes: tuple[Modes, ...] = (),
        in_project: bool = True,
        free: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.modes, self.in_project, self.free = modes, in_project, frozenset(free)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of the command line, and refuse those that would have no effect."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            refuse_repeated(ctx, words)
            self._refuse_texts(ctx)
            self._refuse_idle(ctx)
        return rest

    def _refuse_texts(self, ctx: click.Context) -> None:
        from mmfeat.common.urls import refuse_url

        for parameter in self.params:
            if parameter.name in self.free or not typed(ctx, parameter.name):
                continue
            for text in _texts(ctx.params[parameter.name]):
                if not text.strip() and not parameter.name.startswith("set_"):
                    raise click.UsageError(f"{_name(parameter)} is empty: leave it out, or give a value", ctx)
                refuse_url(text, text.partition("=")[2])

    def _refuse_idle(self, ctx: click.Context) -> None:
        if not self.in_project and _project_typed(ctx):
            raise click.UsageError(f"--project does not go with mmfeat {self.name}, which works without one", ctx)
        folder = ctx.find_root().params.get(PROJECT, ".")
        if _project_typed(ctx) and self.name != "init" and not Path(folder).is_dir():  # not one of the folders above it
            raise click.UsageError(f"--project {folder}: no such folder", ctx)
        for modes in self.modes:
            mode = modes.of(ctx)
            for parameter in self.params:
                if typed(ctx, parameter.name) and mode not in modes.acts.get(parameter.name, (mode,)):
                    raise click.UsageError(f"{_name(parameter)} does not go with {modes.texts[mode]}", ctx)
            if _project_typed(ctx) and mode not in modes.acts.get(PROJECT, (mode,)):
                raise click.UsageError(f"--project does not go with {modes.texts[mode]}", ctx)


def refuse_repeated(ctx: click.Context, words: list[str]) -> None:
    """Refuse an option that is given twice, where only the last would act."""
    _, _, order = ctx.command.make_parser(ctx).parse_args(args=list(words))
    seen = set()
    for parameter in order:
        if isinstance(parameter, click.Option) and not parameter.multiple and not parameter.is_flag:
            if parameter.name in seen:
                raise click.UsageError(f"{parameter.opts[0]} is given twice: only one could act", ctx)
            seen.add(parameter.name)


def typed(ctx: click.Context, name: str) -> bool:
    """Whether a parameter was typed, whatever its value."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _project_typed(ctx: click.Context) -> bool:
    return typed(ctx.find_root(), PROJECT)


def refuse_unread(ctx: click.Context, keys: Collection[str], reads: Collection[str]) -> None:
    """Refuse options and `--set` for keys of mmfeat.toml that a command does not read as things are.

    Parameters
    ----------
    keys : collection of str
        Dotted keys that were typed.
    reads : collection of str
        Dotted keys that are read, or tables of them.
    """
    for key in keys:
        if not any(key == one or key.startswith(f"{one}.") for one in reads):
            raise click.UsageError(f"{key} has no effect here: of mmfeat.toml this reads {', '.join(reads)}", ctx)


def _texts(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, tuple | list) else [value]:
        if isinstance(one, str):
            yield one


def _name(parameter: click.Parameter) -> str:
    return parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.make_metavar(_NO_CONTEXT))


_NO_CONTEXT = click.Context(click.Command("mmfeat"))
