"""Reads mmfeat.toml and checks names, types and ranges; every error is one line that starts with the line number."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown, shown_value
from mmfeat.common.urls import is_url
from mmfeat.config.encoder_tables import MODALITY_TABLES, EncoderTable, encoder_table_class
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.config.schema import (
    FILE_NAME,
    FINETUNE_KEYS,
    HEAD,
    HEAD_ALONE,
    HEADS,
    MODALITIES,
    RECIPES,
    Config,
    FinetuneStage,
    FuseConfig,
)


def config_of(raw: dict[str, Any], root: Path) -> Config:
    """A configuration from nested values instead of a file, with the same checks."""
    keys = _dotted(raw)
    where = _Where("", set(keys), _encoders(raw))
    config = _read(Config, raw, "", where)
    config = dataclasses.replace(
        config, root=root.resolve(), origins=dict.fromkeys(keys, "option"), file_seed=config.seed
    )
    _check(config, where)
    return config


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read mmfeat.toml, override it by options, and check all settings.

    Parameters
    ----------
    path : Path
        The file.
    overrides : dict[str, Any], optional
        Dotted key (`fuse.crossattn.dropout`) to value; a `str` is converted to the key's type. Encoders, data, split and
        store cannot be overridden, because all commands must agree on them.

    Raises
    ------
    ConfigError
        The file or an override is invalid; the message has the file's line, the key and the nearest valid one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Run: mmfeat init SOURCE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{FILE_NAME}: not valid TOML: {error}") from None
    origins = dict.fromkeys(_dotted(raw), FILE_NAME)
    file_seed = _read(Config, raw, "", _Where(text, set(), _encoders(raw))).seed
    for key, value in (overrides or {}).items():
        _override(raw, key, value)
        origins[key] = "option"
    where = _Where(text, set(overrides or ()), _encoders(raw))
    config = _read(Config, raw, "", where)
    config = _with_default_inputs(config, set(origins))
    config = dataclasses.replace(config, root=path.parent.resolve(), origins=origins, file_seed=file_seed)
    _check(config, where)
    return config


def with_rule_for(config: Config, n_classes: int) -> Config:
    """The settings with `predict.empty = "none"` if there is a single class and the file does not set this key.

    With the default, a row without a class above the threshold gets its top class. With a single class every row would
    then be positive, whatever the model predicts.
    """
    if n_classes != 1 or "predict.empty" in config.origins:
        return config
    return dataclasses.replace(config, predict=dataclasses.replace(config.predict, empty="none"))


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """A configuration with other values for some keys, which are recorded as options.

    Parameters
    ----------
    settings : dict of str to Any
        Dotted key to value, as for :func:`load_config`.

    Raises
    ------
    ConfigError
        A key is unknown, or a value is wrong.
    """
    where = _Where("", set(settings), tuple(config.encoder))
    for dotted, value in settings.items():
        config = _with_value(config, dotted.split("."), value, dotted=dotted, where=where)
    config = dataclasses.replace(config, origins={**config.origins, **dict.fromkeys(settings, "option")})
    _check(config, where)
    return config


def _with_value(table: Any, names: list[str], value: Any, *, dotted: str, where: _Where) -> Any:
    """A table of settings with another value for the key `names`."""
    name, *below = names
    fields = _fields(type(table))
    if isinstance(table, FuseConfig) and name not in fields and name in HEADS and below:
        settings = _with_value(table.settings_of(name), below, value, dotted=dotted, where=where)
        return dataclasses.replace(table, others={**table.others, name: settings})
    if name not in fields:
        raise ConfigError(f"{where(dotted)}: unknown key '{shown(dotted)}'. {_nearest(name, list(fields))}")
    if below:
        value = _with_value(getattr(table, name), below, value, dotted=dotted, where=where)
    else:
        value = _read_value(typing.get_type_hints(type(table))[name], fields[name], value, dotted=dotted, where=where)
    return dataclasses.replace(table, **{name: value})


@dataclass(frozen=True)
class _Where:
    """Finds the line of a key in the file, for messages."""

    text: str
    overridden: set[str]
    encoders: tuple[str, ...]

    def __call__(self, dotted: str) -> str:
        if dotted in self.overridden:
            return f"option {shown(dotted)}"
        *tables, name = dotted.split(".")
        table = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\]#]+?)\s*\]", line):
                table = re.sub(r"[\s\"']", "", header[1])
                if table == dotted:
                    return f"{FILE_NAME}:{number}"
            elif assigned := re.match(r"\s*([\w.\-\"' ]+?)\s*=", line):
                key = re.sub(r"[\s\"']", "", assigned[1])
                if f"{table}.{key}".strip(".") == ".".join([*tables, name]):
                    return f"{FILE_NAME}:{number}"
        return FILE_NAME


def _encoders(raw: dict[str, Any]) -> tuple[str, ...]:
    """Names of the encoders with a table, or of the default encoders."""
    tables = raw.get("encoder")
    named = tuple(name for name, table in tables.items() if isinstance(table, dict)) if isinstance(tables, dict) else ()
    return named or MODALITIES


def _dotted(raw: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in raw.items():
        keys += _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return keys


def _override(raw: dict[str, Any], key: str, value: Any) -> None:
    *tables, name = key.split(".")
    if tables and tables[0] in ("data", "split", "encoder", "store"):
        raise ConfigError(
            f"option {shown(key)}: [{tables[0]}] has no options, since all commands must agree on it. Edit {FILE_NAME}"
        )
    target = raw
    for table in tables:
        target = target.setdefault(table, {})
        if not isinstance(target, dict):
            raise ConfigError(f"option {shown(key)}: '{shown(table)}' is not a table")
    target[name] = _Text(value) if isinstance(value, str) else value


class _Text(str):
    """A value from the command line, to be converted to the key's type."""


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"Nearest: {close[0]}" if close else f"Known here: {', '.join(valid)}"


def read_settings(cls: type, values: dict[str, Any], place: str) -> Any:
    """The settings of one stage or head from Python values, with the same checks as a file.

    Raises
    ------
    ConfigError
        A name, type or value is wrong; the message begins with `place`.
    """
    return _read(cls, values, "", lambda dotted: place)


def _read(cls: type, raw: dict[str, Any], prefix: str, where: Callable[[str], str]) -> Any:
    """Build a dataclass from a table, checking names, types and ranges."""
    fields, hints = _fields(cls), typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        dotted = prefix + name
        if cls is FuseConfig and name not in fields and name in HEADS and isinstance(value, dict):
            values.setdefault("others", {})[name] = _read(HEADS[name], value, dotted + ".", where)
            continue
        if name not in fields:
            raise ConfigError(f"{where(dotted)}: unknown key '{shown(dotted)}'. {_nearest(name, list(fields))}")
        values[name] = _read_value(hints[name], fields[name], value, dotted=dotted, where=where)
    return cls(**values)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    """The settings of a table by their names."""
    return {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("internal")}


def _read_value(hint: Any, f: dataclasses.Field, value: Any, *, dotted: str, where: _Where) -> Any:
    if dotted in ("encoder", "finetune"):
        if not isinstance(value, dict):
            raise ConfigError(f"{where(dotted)}: '{dotted}' is a table: write [{dotted}.NAME]")
        if dotted == "finetune":
            return _read_finetune(value, where)
        return {name: _read_encoder(name, table, where) for name, table in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where(dotted)}: '{dotted}' is a table, found {shown_value(value)}. Write: [{dotted}]")
        return _read(hint, value, dotted + ".", where)
    value = _typed(hint, value, dotted, where)
    choices, low, high = (f.metadata.get(k) for k in ("choices", "low", "high"))
    numeric = low is not None
    if choices and value not in choices and (isinstance(value, str) or not numeric):
        found = shown_value(value)
        if numeric:
            raise ConfigError(
                f"{where(dotted)}: {dotted} must be a number from {low:g} to {high:g} or one of: {', '.join(choices)}; found {found}"
            )
        raise ConfigError(f"{where(dotted)}: {dotted} = {found}. Use one of: {', '.join(map(str, choices))}")
    if f.metadata.get("filled") and not value:
        raise ConfigError(f"{where(dotted)}: {dotted} is empty. Leave it out for the default: {shown_value(f.default)}")
    if isinstance(value, str):
        return value
    if (low is not None and value < low) or (high is not None and value > high):
        plain = "" if isinstance(high, int) else "g"  # "g" would round a large whole number
        bounds = f"from {low:g}" + (f" to {high:{plain}}" if high is not None else "")
        raise ConfigError(f"{where(dotted)}: {dotted} = {shown_value(value)}. Use a number {bounds}")
    return value


def _typed(hint: Any, value: Any, dotted: str, where: _Where) -> Any:
    """Check a value's type; text of the command line is converted first."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in options:
        if typing.get_origin(kind) is tuple:
            values = str(value).split(",") if isinstance(value, _Text) else value
            values = [values] if isinstance(values, str) else values
            if isinstance(values, list | tuple) and all(isinstance(v, str) for v in values):
                if not all(values):
                    raise ConfigError(f"{where(dotted)}: {dotted} contains an empty text. Remove it")
                return tuple(str(v) for v in values)
        elif isinstance(value, _Text):
            try:
                if kind is bool:
                    return {"true": True, "false": False}[value.lower()]
                number = kind(str(value))
                if kind is not float or math.isfinite(number):
                    return number
            except (ValueError, KeyError):
                continue
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) <= sys.float_info.max:  # false for NaN
                return float(value)
        elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    names = {"int": "a whole number", "float": "a number", "str": "text in quotes", "bool": "true or false"}
    wanted = " or ".join(names.get(getattr(kind, "__name__", ""), "a list of texts") for kind in options)
    raise ConfigError(f"{where(dotted)}: {dotted} must be {wanted}, found {shown_value(value)}")


def _read_encoder(name: str, table: Any, where: _Where) -> EncoderTable:
    dotted = f"encoder.{name}"
    if not isinstance(table, dict):
        raise ConfigError(_no_table(dotted, "encoder", where))
    if wrong := wrong_name(name):
        raise ConfigError(f"{where(dotted)}: {wrong}. Rename the encoder")
    modality = table.get("modality", name)
    cls = encoder_table_class(modality, table) if isinstance(modality, str) else None
    if cls is None:
        choices = " or ".join(f'modality = "{one}"' for one in MODALITY_TABLES)
        raise ConfigError(f"{where(dotted)}: {dotted} needs its modality. Write: {choices}")
    config = _read(cls, table, dotted + ".", where)
    if wrong := config.wrong(name):
        key, message = wrong
        raise ConfigError(f"{where(f'{dotted}.{key}')}: {message}")
    return config


def wrong_name(name: str) -> str:
    """The reason why a name is not allowed for an encoder; empty if it is."""
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        return f"an encoder's name is letters, digits, - and _, found {shown_value(name)}"
    if name in RECIPES or re.search(r"-\d+$", name):
        return f"'{name}' is the name of a recipe or of a run"
    if name in FINETUNE_KEYS:
        return f"'{name}' is a key of [finetune]"
    return ""


def _read_finetune(stage: dict[str, Any], where: _Where) -> FinetuneStage:
    """`[finetune]`: the recipe, and the settings of each `[finetune.NAME]`."""
    encoders = {}
    for name, table in stage.items():
        if name in FINETUNE_KEYS:
            continue
        if not isinstance(table, dict):
            raise ConfigError(_no_table(f"finetune.{name}", "finetune", where))
        settings = _read(FinetuneConfig, table, f"finetune.{name}.", where)
        encoders[name] = {key: getattr(settings, key) for key in table}
    given = {key: stage[key] for key in FINETUNE_KEYS if key in stage}
    return dataclasses.replace(_read(FinetuneStage, given, "finetune.", where), encoders=encoders)


def _no_table(dotted: str, group: str, where: _Where) -> str:
    tables = " or ".join(f"[{group}.{shown(name)}]" for name in where.encoders)
    return f"{where(dotted)}: '{shown(dotted)}' is outside an encoder's table. Write it under: {tables}"


def _with_default_inputs(config: Config, keys: set[str]) -> Config:
    """The settings with defaults for inputs and head that suit the file's encoders."""
    fuse, names = config.fuse, tuple(config.encoder)
    if "fuse.inputs" not in keys and not set(fuse.inputs) <= set(names):
        head = fuse.head if "fuse.head" in keys else HEAD if len(names) > 1 else HEAD_ALONE
        fuse = dataclasses.replace(fuse, inputs=names, head=head)
    return dataclasses.replace(config, fuse=fuse)


def _check(config: Config, where: _Where) -> None:
    """Check conditions that involve several settings."""
    names = list(config.encoder)
    if not names:
        raise ConfigError(f"{where('encoder')}: no encoder is configured. Write: [encoder.image]")
    for name in config.fuse.inputs:
        if name not in names:
            raise ConfigError(f"{where('fuse.inputs')}: fuse.inputs names {shown_value(name)}. {_nearest(name, names)}")
        if config.fuse.inputs.count(name) > 1:
            raise ConfigError(f"{where('fuse.inputs')}: fuse.inputs names {shown_value(name)} twice. Remove one")
    for head, settings in config.fuse.tables.items():
        for f in dataclasses.fields(settings):
            named, place = getattr(settings, f.name), f"fuse.{head}.{f.name}"
            if f.metadata.get("encoder") and named and named not in names:
                raise ConfigError(f"{where(place)}: {place} names {shown_value(named)}. {_nearest(named, names)}")
    for name in config.finetune.encoders:
        if name not in names:
            raise ConfigError(
                f"{where('finetune.' + name)}: unknown encoder in [finetune.{shown(name)}]. {_nearest(name, names)}"
            )
        if wrong := config.finetune_of(name).wrong(cached=config.store.front_limit > 0):
            key, message = f"finetune.{name}.{wrong[0]}", wrong[1]
            raise ConfigError(f"{where(key)}: {key} {message}")
    for key, texts in {
        "data.source": [config.data.source],
        "data.images": config.data.images,
        "data.classes": [config.data.classes],
        "finetune.synonyms": [config.finetune.synonyms],
        **{f"split.{split}_ids": [file] for split, file in config.split.files.items()},
        "store.path": [config.store.path],
        **{f"encoder.{name}.pretrained": [table.pretrained] for name, table in config.encoder.items()},
    }.items():
        if url := next(filter(is_url, texts), ""):
            raise ConfigError(
                f"{where(key)}: {key} = {shown_value(url)} is a URL: download it first, and name the file"
            )
    if config.fuse.folds == 1:
        raise ConfigError(f"{where('fuse.folds')}: fuse.folds = 1 leaves no row to train on. Use 0, or from 2 to 20")
    if wrong := config.split.wrong():
        key, message = wrong
        raise ConfigError(f"{where(f'split.{key}')}: {message}")
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d?))?", config.device):
        raise ConfigError(
            f"{where('device')}: device = {shown_value(config.device)}. Use one of: auto, cpu, cuda, cuda:1"
        )
