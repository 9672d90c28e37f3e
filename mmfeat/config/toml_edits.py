"""Edits of mmfeat.toml that keep its comments and layout."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from mmfeat.common.errors import ConfigError, one_line
from mmfeat.common.text import toml_value
from mmfeat.config.schema import FILE_NAME, MODALITIES


def with_encoder(text: str, name: str, values: Mapping[str, bool | str], *, inputs: Sequence[str] | None = None) -> str:
    """The text of mmfeat.toml with a further table `[encoder.NAME]`, after those that are there.

    Parameters
    ----------
    values : mapping of str to bool or str
        The keys of the table.
    inputs : sequence of str, optional
        The new value of `fuse.inputs`; unchanged, if None.

    Raises
    ------
    ConfigError
        The text is not valid TOML, or has a layout that cannot be edited; the message has the lines to write by hand.
    """
    wanted = tomllib.loads(text)
    # without any table, there are default encoders, which the first table would replace
    others = [] if "encoder" in wanted else [modality for modality in MODALITIES if modality != name]
    tables = {**{other: {} for other in others}, name: dict(values)}
    wanted.setdefault("encoder", {}).update(tables)
    if inputs is not None:
        wanted.setdefault("fuse", {})["inputs"] = list(inputs)
    lines = [f"[encoder.{other}]" for other in others]
    lines += [f"[encoder.{name}]", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
    new = _in_place(text, tables, inputs)
    if new is None or _values(new) != wanted:
        new = _at_the_end(text, lines, inputs)
    if _values(new) == wanted:
        return new
    more = [] if inputs is None else [f"[fuse] inputs = {toml_value(list(inputs))}"]
    raise ConfigError(f"{FILE_NAME}: its layout cannot be edited. Write by hand: {' '.join([*lines, *more])}")


def with_values(text: str, values: Mapping[str, bool | float | str]) -> str:
    """The text of mmfeat.toml with other values of some dotted keys; tables that it lacks are added."""
    import tomlkit

    document = tomlkit.parse(text)
    for key, value in values.items():
        *tables, last = key.split(".")
        table: Any = document
        for name in tables:
            table = table.setdefault(name, tomlkit.table())
        table[last] = value
    return tomlkit.dumps(document)


def _values(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _in_place(text: str, tables: Mapping[str, Mapping[str, bool | str]], inputs: Sequence[str] | None) -> str | None:
    """The text with tables after those of the other encoders; None if tomlkit cannot write it."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        if "encoder" not in document:
            document["encoder"] = tomlkit.table(is_super_table=True)
        for name, values in tables.items():
            table = tomlkit.table()
            for key, value in values.items():
                table.add(key, value)
            table.add(tomlkit.nl())
            document["encoder"][name] = table
        _set_inputs(document, inputs)
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError, ValueError):
        return None


def _at_the_end(text: str, lines: list[str], inputs: Sequence[str] | None) -> str:
    """The text followed by the lines of the tables, for layouts that tomlkit does not write well."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        _set_inputs(document, inputs)
        text = tomlkit.dumps(document)
    except TOMLKitError as error:
        raise ConfigError(f"{FILE_NAME}: cannot be edited: {one_line(error)}. Write the table by hand") from None
    return "\n".join([text.rstrip("\n"), "", *lines, ""])


def _set_inputs(document: Any, inputs: Sequence[str] | None) -> None:
    """Set `fuse.inputs`, which keeps its layout if one name is appended."""
    import tomlkit

    if inputs is None:
        return
    fuse = document.setdefault("fuse", tomlkit.table())
    if "inputs" in fuse and list(fuse["inputs"]) == list(inputs[:-1]):
        fuse["inputs"].append(inputs[-1])
    else:
        fuse["inputs"] = list(inputs)
