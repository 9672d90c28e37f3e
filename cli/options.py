"""What several commands share: options that override mmfeat.toml, and opening the project."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmfeat.workflows.project import Project


class Shard(click.ParamType):
    """`3/16`: the third of sixteen parts."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """`(k, n)` of the text."""
        number, _, n = str(value).partition("/")
        if number.isdecimal() and n.isdecimal() and 1 <= int(number) <= int(n):
            return int(number), int(n)
        return self.fail(f"{value!r}: write K/N with K from 1 to N, as in 3/16", param, ctx)


_TOP = {
    "metric": "What is chosen for: samples-f1, micro-f1, macro-f1, map, loss.",
    "seed": "Fixes everything random.",
    "device": "auto, cpu, cuda, cuda:1.",
}


DECISION = (
    ("predict.threshold", "A label needs a probability above it: a number, tuned, tuned-per-class."),
    ("predict.empty", "Where nothing passes: most-probable, none."),
    ("predict.calibration", "Of the probabilities: none, temperature."),
)


def setting_options(*stage: tuple[str, str]) -> Callable:
    """Options for keys of mmfeat.toml: the given (dotted key, help), those at the top of the file, and --set."""

    def decorate(command: Callable) -> Callable:
        keys = [*stage, *_TOP.items()]
        sets = click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any key, as fuse.crossattn.dropout=0.2."
        )
        command = sets(command)
        for key, text in reversed(keys):
            name = key.rpartition(".")[2].replace("_", "-")
            command = click.option(f"--{name}", _parameter(key), default=None, metavar="VALUE", help=text)(command)
        return command

    return decorate


def _parameter(key: str) -> str:
    return "set_" + key.replace(".", "__")


def open_project(context: click.Context, options: dict[str, Any], dry: bool = False) -> Project:
    """The project of `--project` with the options' values over its file's; takes the options out of `options`."""
    from mmfeat.workflows.project import Project

    return Project(context.obj, overrides_of(options), dry)


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """Dotted key to what was typed for it; takes the options out of `options`."""
    from mmfeat.errors import ConfigError

    overrides = {}
    for name in [name for name in options if name.startswith("set_")]:
        value = options.pop(name)
        if value is not None:
            overrides[name.removeprefix("set_").replace("__", ".")] = value
    for item in options.pop("sets", ()):
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {item}: write KEY=VALUE, as in --set fuse.crossattn.dropout=0.2")
        overrides[key] = value.strip()
    return overrides


def echo_problems(problems: list[str], shown: int = 3) -> None:
    """What was found damaged in the store, on stderr: the first few and how many more."""
    for problem in problems[:shown]:
        click.echo(f"Note: {problem}", err=True)
    if len(problems) > shown:
        click.echo(f"Note: and {len(problems) - shown:,} more files of the store like these", err=True)


def echo_one_class(project: Project) -> None:
    """A line on stderr where every row is positive by rule: one class, and rows without a label are given it."""
    from mmfeat.report.summary import warn_of_one_class

    if warning := warn_of_one_class(project.config, len(project.manifest.classes)):
        click.echo(f"Note: {warning}", err=True)


def echo_next(made: str, command: str) -> None:
    """The last line of every command: what was made, and what to type next."""
    click.echo(f"{made} Next: {command}")


def typed_again() -> str:
    """The command that was typed, without `--dry-run`."""
    return shlex.join(["mmfeat", *(word for word in sys.argv[1:] if word != "--dry-run")])
