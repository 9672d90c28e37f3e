"""Tables of options and settings, made from the code: a page holds a marker, and the site shows the table in its place.

<!-- options of mmfeat store gc -->     usage and options of a command
<!-- settings of split -->              before a table `| key | meaning |`: adds defaults and accepted values
<!-- public names -->                   the public classes and functions of mmfeat, for mkdocstrings
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import click

OPTIONS = re.compile(r"^<!-- options of mmfeat (.+?) -->$", re.MULTILINE)
SETTINGS = re.compile(
    r"^<!-- settings of (\S*?) ?-->\n\n?\| key \| meaning \|\n\|[-|]+\|\n((?:\|.*\n?)+)", re.MULTILINE
)
NAMES = re.compile(r"^<!-- public names -->$", re.MULTILINE)
ROW = re.compile(r"^\| (.+?) \| (.+) \|$")


def with_tables(markdown: str) -> str:
    """A page with every marker replaced by its table."""
    markdown = OPTIONS.sub(lambda match: options_table(match[1]), markdown)
    markdown = SETTINGS.sub(lambda match: settings_table(match[1], match[2]), markdown)
    return NAMES.sub(lambda match: public_names(), markdown)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name: `("store gc", ...)`."""
    from mmfeat.cli import group

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield name, command
            return
        for child in command.list_commands(click.Context(command)):
            yield from walk(command.commands[child], f"{name} {child}".strip())

    yield from walk(group, "")


def options_table(name: str) -> str:
    """The usage line and the options of one command."""
    command = dict(commands())[name]
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    lines = [f"    mmfeat {' '.join([name, *(['[OPTIONS]'] if options else []), *arguments])}", ""]
    lines += ["| option | meaning |", "|---|---|"] if options else []
    for option in options:
        typed = ", ".join(f"`{text}`" for text in (*option.opts, *option.secondary_opts))
        value = "" if option.is_flag else f" {cell(option.make_metavar(click.Context(command)))}"
        lines.append(f"| {typed}{value} | {cell(option.help or '')} |")
    return "\n".join(lines)


def settings_table(table: str, rows: str) -> str:
    """The rows `| key | meaning |` of one table of mmfeat.toml with defaults and accepted values."""
    columns, known = settings_of(table)
    written: dict[str, str] = {}
    for line in rows.splitlines():
        key, meaning = ROW.match(line).groups()
        written[key.strip("`")] = meaning
    if missing := set(known) ^ set(written):
        raise ValueError(f"[{table}]: these settings are in the code or in the page, not in both: {sorted(missing)}")
    lines = [f"| key | {' | '.join(columns)} | accepted values | meaning |", "|---" * (len(columns) + 3) + "|"]
    for key, meaning in written.items():
        defaults, accepted = known[key]
        lines.append(f"| `{key}` | {' | '.join(map(cell, defaults))} | {cell(accepted)} | {meaning} |")
    return "\n".join(lines) + "\n"


def settings_of(table: str) -> tuple[list[str], dict[str, tuple[list[str], str]]]:
    """The columns of defaults of a table of mmfeat.toml, and by key its defaults and accepted values."""
    from mmfeat.config import encoder_tables, schema
    from mmfeat.config.finetune_recipes import FINETUNE_RECIPES, recipe_settings

    if table == "finetune.NAME":
        pairs = [(recipe, modality) for recipe in FINETUNE_RECIPES for modality in ("image", "text")]
        places = [recipe_settings(*pair) for pair in pairs]
        columns = [f"{recipe}: {modality}s" for recipe, modality in pairs]
        return columns, {
            field.name: ([shown(getattr(place, field.name)) for place in places], accepted(field))
            for field in own_fields(places[0])
        }
    if table == "fuse.HEAD":
        fuse = schema.FuseConfig()
        heads = {f.name: getattr(fuse, f.name) for f in dataclasses.fields(fuse)}
        heads = {name: table for name, table in heads.items() if dataclasses.is_dataclass(table)}
        fields = {field.name: field for head in heads.values() for field in own_fields(head)}
        return ["default"], {name: ([by_head(name, heads)], accepted(field)) for name, field in fields.items()}
    encoders = {
        "encoder.image": "ImageEncoderConfig",
        "encoder.text": "TextEncoderConfig",
        "encoder.tfidf": "TfidfEncoderConfig",
        "encoder.other": "OtherEncoderConfig",
    }
    if table in encoders:
        place = getattr(encoder_tables, encoders[table])()
    else:
        place = getattr(schema.Config(), table) if table else schema.Config()
    return ["default"], {
        field.name: (
            [shown(getattr(place, field.name))],
            ", ".join(schema.DEVICES) if field.name == "device" else accepted(field),
        )
        for field in own_fields(place)
        if not isinstance(getattr(place, field.name), dict)
    }


def own_fields(place: Any) -> list[dataclasses.Field]:
    """The settings of a table, without the tables in it and what is no setting."""
    return [
        field
        for field in dataclasses.fields(place)
        if not field.metadata.get("internal") and not dataclasses.is_dataclass(getattr(place, field.name))
    ]


def by_head(name: str, heads: dict[str, Any]) -> str:
    """The defaults of one setting of heads: the one of most heads first, the others with their heads."""
    values = {head: shown(getattr(table, name)) for head, table in heads.items() if hasattr(table, name)}
    groups: dict[str, list[str]] = {}
    for head, value in values.items():
        groups.setdefault(value, []).append(head)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    everywhere = len(values) == len(heads)
    texts = [value if everywhere and not i else f"{value} ({', '.join(of)})" for i, (value, of) in enumerate(ordered)]
    return "; ".join(texts)


def accepted(field: dataclasses.Field) -> str:
    """What a setting may be, as the reader of mmfeat.toml checks it."""
    kept = field.metadata
    choices = ", ".join(map(str, kept.get("choices") or ()))
    low, high = kept.get("low"), kept.get("high")
    if low is not None or high is not None:
        bounds = f"{low:g} to {high:g}" if low is not None and high is not None and high < 1e9 else f"{low:g} or more"
        return f"{bounds}, or {choices}" if choices else bounds
    if choices:
        return choices
    if kept.get("encoder"):
        return "name of an encoder, or empty"
    return {"bool": "true, false", "str": "text", "int | str": "a number, or auto"}.get(str(field.type), "text or list")


def shown(value: Any) -> str:
    """A default as mmfeat.toml has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 100 else str(value)
    return "a space" if value == " " else str(value) if value != "" else "none"


def public_names() -> str:
    """A mkdocstrings line for every public class and function."""
    import mmfeat

    lines = []
    for name in mmfeat.__all__:
        value = getattr(mmfeat, name)
        if callable(value):
            lines.append(f"::: {value.__module__}.{value.__qualname__}")
            if name == "Project":
                lines += ["    options:", "      inherited_members: true", f"      members: {verbs(value)}"]
            lines.append("")
    return "\n".join(lines)


def verbs(project: type) -> list[str]:
    """The methods of a project that are commands, and the data that they use."""
    names = [name for name in dir(project) if not name.startswith("_")]
    commands = [
        name
        for name in names
        if callable(getattr(project, name)) and getattr(project, name).__module__.startswith("mmfeat.api.")
    ]
    return ["config", "manifest", "store", *commands]


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
