"""Errors that tell what to type to name a column, in the words of the caller: options of `init` or `predict`, keys of a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmfeat.common.errors import DataError
from mmfeat.config.schema import FILE_NAME

Settings = Sequence[Sequence[tuple[str, str]]]  # all of them are to be set; of a group, any one


@dataclass(frozen=True, kw_only=True)
class SettingNames:
    """What a user types to set columns and other settings of a source.

    Attributes
    ----------
    usual : str
        The text of a setting: `{name}` is a role of a column or a key under `[data]`, `{value}` its value.
    others : mapping of str to str
        Names of settings with another text.
    joint, end : str
        The texts between settings and after the last one.
    """

    usual: str
    others: Mapping[str, str] = field(default_factory=dict)
    joint: str = " "
    end: str = ""

    def typed(self, settings: Settings) -> str:
        """The text to type, without `end`."""
        return self.joint.join(" or ".join(self._one(*setting) for setting in group) for group in settings)

    def _one(self, name: str, value: str) -> str:
        shell = repr(value) if name == "separator" else shlex.quote(value)
        quoted = json.dumps(value, ensure_ascii=False) if self.end else shell
        return self.others.get(name, self.usual).format(name=name, value=quoted)


INIT = SettingNames(usual="--{name} {value}", others={"split": "--split-column {value}"})
PREDICT = SettingNames(usual="--column {name}={value}", others={"images": "--images {value}"})
IN_FILE = SettingNames(
    usual="{name} = {value} under [data]",
    others={"split": "column = {value} under [split]"},
    joint=" and ",
    end=f" in {FILE_NAME}, then: mmfeat init",
)


class SettingError(DataError):
    """A source that further settings make readable.

    Parameters
    ----------
    text : str
        What is wrong; it ends in a full stop.
    settings, perhaps : sequence of sequence of (str, str)
        The settings to type, as names and values (or placeholders such as COLUMN), and others that may be meant.
    """

    def __init__(self, text: str, settings: Settings, perhaps: Settings = (), *, names: SettingNames = INIT) -> None:
        more = f" (perhaps also {names.typed(perhaps)})" if perhaps else ""
        super().__init__(f"{text} Use: {names.typed(settings)}{more}{names.end}")
        self._parts = (text, settings, perhaps)

    def called(self, names: SettingNames) -> SettingError:
        """The same error with the settings as a caller names them."""
        return SettingError(*self._parts, names=names)
