"""Edits of mmfeat.toml that keep its comments and layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmfeat.common.errors import ConfigError, one_line
from mmfeat.config.schema import FILE_NAME, MODALITIES


def with_encoder(text: str, name: str, values: Mapping[str, Any], *, inputs: Sequence[str] | None = None) -> str:
    """The text of mmfeat.toml with a further table `[encoder.NAME]`, after those that are there.

    Parameters
    ----------
    values : mapping of str to Any
        The keys of the table.
    inputs : sequence of str, optional
        The new value of `fuse.inputs`; unchanged, if None.

    Raises
    ------
    ConfigError
        The text is not valid TOML.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        if "encoder" not in document:  # the default encoders would be gone with the first table
            document["encoder"] = tomlkit.table(is_super_table=True)
            for modality in MODALITIES:
                document["encoder"][modality] = _table({})
        document["encoder"][name] = _table(values)
        if inputs is not None:
            fuse = document.setdefault("fuse", tomlkit.table())
            if "inputs" in fuse and list(fuse["inputs"]) == list(inputs[:-1]):
                fuse["inputs"].append(inputs[-1])
            else:
                fuse["inputs"] = list(inputs)
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise ConfigError(f"{FILE_NAME}: cannot be edited: {one_line(error)}. Write the table by hand") from None


def _table(values: Mapping[str, Any]) -> Any:
    import tomlkit

    table = tomlkit.table()
    for key, value in values.items():
        table.add(key, value)
    table.add(tomlkit.nl())
    return table
