"""Shared by several commands: options that override mmfeat.toml, and opening the project."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from mmfeat.cli.printing import echo, explain, note
from mmfeat.cli.strict import refuse_unread

from mmfeat.common.text import counted
from mmfeat.config.read_keys import TOP

if TYPE_CHECKING:
    from mmfeat.config.schema import Config
    from mmfeat.inference.threshold_report import ThresholdReport
    from mmfeat.project.project import Project
    from mmfeat.runs.run_names import Naming


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
    "metric": "The metric to select by.",
    "seed": "Seed of everything random.",
    "device": "The device to compute on.",
    "heads_dtype": "Type of the stored weights of heads and linear probes, if --dtype is float32.",
    "engine": "The library that executes encoders. auto: the fastest, measured if the work is long.",
}
DECISION = (
    (
        "predict.threshold",
        "A label is predicted if its probability is above this. auto: fitted on val if that beats 0.5 beyond noise.",
    ),
    ("predict.empty", "Labels of a row without a class above the threshold."),
    ("predict.calibration", "Calibration of the probabilities."),
)


def setting_options(*stage: tuple[str, str], top: tuple[str, ...] = TOP, sets: bool = True) -> Callable:
    """Options for keys of mmfeat.toml: those of `stage` (dotted key, help), those of `top`, and --set.

    The help text lists the values that a key may have.
    """

    def decorate(command: Callable) -> Callable:
        if sets:
            command = click.option(
                "--set",
                "sets",
                multiple=True,
                metavar="KEY=VALUE",
                help="Any key of mmfeat.toml that this command reads, such as fuse.crossattn.dropout=0.2. Repeatable.",
            )(command)
        for key, text in reversed([*stage, *((name, _TOP[name]) for name in top)]):
            name = key.rpartition(".")[2].replace("_", "-")
            choices = choices_text(key)
            text = f"{text} {choices[0].upper()}{choices[1:]}." if choices else text
            command = click.option(f"--{name}", _parameter(key), default=None, metavar="VALUE", help=text)(command)
        return command

    return decorate


def choices_text(key: str) -> str:
    """The values that a key of mmfeat.toml may have, if they can be listed: `one of: mean, greedy`."""
    from mmfeat.config.schema import DEVICES, Config, FinetuneConfig, HeadConfig

    if key == "device":
        return f"one of: {', '.join(DEVICES)}"
    table, _, name = key.rpartition(".")
    below = {"finetune": [FinetuneConfig], "fuse": [HeadConfig]}.get(table, [])  # of each encoder, of each head
    places = [getattr(Config(), table) if table else Config, *below]
    kept = next(f.metadata for place in places for f in dataclasses.fields(place) if f.name == name)
    choices, low, high = (kept.get(what) for what in ("choices", "low", "high"))
    listed = ", ".join(map(str, getattr(choices, "known", choices) or ()))  # without importing installed packages
    if listed and low is not None:
        return f"a number from {low:g} to {high:g}, or one of: {listed}"
    return f"one of: {listed}" if listed else ""


def _parameter(key: str) -> str:
    return "set_" + key.replace(".", "__")


Reads = Callable[["Config"], Collection[str]]


def open_project(
    context: click.Context, options: dict[str, Any], reads: Collection[str] | Reads = (), dry: bool = False
) -> Project:
    """The project of `--project`, with the options' values over those of its file. Takes the options out of `options`.

    Parameters
    ----------
    reads : collection of str, or callable
        Dotted keys and tables of mmfeat.toml that the command reads, or a function from a configuration to them.
        An option for another key is a usage error.
    """
    from mmfeat.project.project import Project

    typed = overrides_of(options)
    project = Project(context.obj, typed, dry)
    refuse_unread(context, typed, reads(project.config) if callable(reads) else reads)
    return project


def project_runs(folder: str) -> list[str]:
    """Names of the runs of the project at or above a folder. None without a project."""
    start = Path(folder).resolve()
    root = next((place for place in (start, *start.parents) if (place / "mmfeat.toml").is_file()), None)
    return [path.name for path in (root / "runs").glob("[!.]*")] if root is not None else []


def decision_reads(named: bool, *, new: bool = False) -> Reads:
    """The keys that a command reads to decide labels; see :func:`mmfeat.config.read_keys.decision_keys`."""
    from mmfeat.config.read_keys import decision_keys

    return lambda config: decision_keys(config, named, new=new)


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """Dotted key to the text that was typed for it. Takes the options out of `options`."""
    from mmfeat.common.errors import ConfigError

    overrides: dict[str, Any] = {}
    for name in [name for name in options if name.startswith("set_")]:
        value = options.pop(name)
        if value is not None:
            overrides[name.removeprefix("set_").replace("__", ".")] = value
    for item in options.pop("sets", ()):
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {item}: write KEY=VALUE, as in --set fuse.crossattn.dropout=0.2")
        if key in overrides:
            raise click.UsageError(f"{key} is given twice: only one value could act")
        overrides[key] = value.strip()
    return overrides


def naming_options(command: Callable) -> Callable:
    """The options of a command that makes a run: its name and its note."""
    command = click.option("--note", default="", metavar="TEXT", help="A note to keep with the run.")(command)
    text = "The run's name. [default: the head's or recipe's, with a number]"
    return click.option("--name", default="", metavar="NAME", help=text)(command)


def naming_of(options: dict[str, Any]) -> Naming:
    """The name and the note that were typed. Takes the options out of `options`."""
    from mmfeat.runs.run_names import Naming

    return Naming(name=options.pop("name"), note=options.pop("note"))


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace files that mmfeat did not write or that were changed since."
)


def echo_problems(problems: list[str], shown: int = 3) -> None:
    """The first few damaged files of the store, and how many more there are, on stderr."""
    for problem in problems[:shown]:
        note(f"Note: {problem}")
    if len(problems) > shown:
        note(f"Note: and {counted(len(problems) - shown, 'more file')} of the store like these")


def echo_one_class(project: Project) -> None:
    """A warning on stderr if there is one class and rows without a label are given it."""
    from mmfeat.report.data_summary import warn_of_one_class

    if warning := warn_of_one_class(project.config, len(project.manifest.classes)):
        note(f"Note: {warning}")


def echo_threshold(report: ThresholdReport | None, name: str = "") -> None:
    """A run's threshold, settings that would do better and, without a name, what a typed option holds for."""
    for show, lines in ((echo, [report.line]), (explain, report.hints)) if report is not None else ():
        for line in filter(None, lines):
            show(f"{name}: {line}" if name else line)
    if report is not None and not name:
        explain(report.typed)


def called(name: str, project: Project | None) -> str:
    """`run crossattn-1`, or `encoder image`."""
    return f"{'encoder' if project is not None and name in project.config.encoder else 'run'} {name}"


def typed_again() -> str:
    """The command that was typed, without `--dry-run`."""
    return shlex.join(["mmfeat", *(word for word in sys.argv[1:] if word != "--dry-run")])
