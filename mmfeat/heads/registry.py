"""The registry of heads, and building a head from its settings.

A package adds a head through an entry point of the group `mmfeat.heads` that names a module with a head class under
`@register_head(NAME, SETTINGS)`. docs/how-to/extend.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mmfeat.common.errors import RunError
from mmfeat.common.plugins import Registry
from mmfeat.config.reader import read_settings
from mmfeat.config.schema import HEAD, HEAD_ALONE, FuseConfig, HeadConfig
from mmfeat.config.schema import HEADS as SETTINGS
from mmfeat.heads.head import Head

HEADS: Registry[type[Head]] = Registry("head", SETTINGS.group, like=SETTINGS)

Family = TypeVar("Family", bound=type[Head])


def register_head(name: str, settings: type[HeadConfig] | None = None) -> Callable[[Family], Family]:
    """Class decorator: register a head under a name.

    Parameters
    ----------
    settings : type of HeadConfig, optional
        The frozen dataclass of its `[fuse.NAME]` table; for built-in heads, `FuseConfig` has it.
    """

    def register(cls: Family) -> Family:
        if settings is not None:
            SETTINGS.register(name, settings)
        HEADS.register(name, cls)
        return cls

    return register


def head_class(name: str) -> type[Head]:
    """A head's class by its name.

    Raises
    ------
    RunError
        The name is unknown.
    """
    if name not in HEADS:
        raise RunError(f"no head {name!r}. Use one of: {', '.join(HEADS)}")
    return HEADS[name]


def head_config(name: str, fuse: FuseConfig) -> Any:
    """The settings of one head from `[fuse.NAME]`."""
    return fuse.settings_of(name)


def head_settings(name: str, recorded: dict[str, Any]) -> Any:
    """The settings of one head from the record of a run or an exported model.

    Raises
    ------
    RunError
        The head is unknown.
    ConfigError
        A setting is unknown or out of range.
    """
    head_class(name)
    return read_settings(type(head_config(name, FuseConfig())), recorded, f"settings of {name}")


def takes(name: str, n_inputs: int) -> bool:
    """Whether a head accepts this number of encoders."""
    return n_inputs >= head_class(name).minimum


def head_for(n_inputs: int) -> str:
    """The default head for this number of encoders."""
    return HEAD if takes(HEAD, n_inputs) else HEAD_ALONE


def build_head(
    name: str, widths: dict[str, int], n_classes: int, config: Any, *, tokens: dict[str, Sequence[int]] | None = None
) -> Head:
    """Build a head by name, with initial weights from torch's random state.

    Parameters
    ----------
    tokens : dict of str to (int, int), optional
        The shape (T, d) of the stored tokens, by encoder; the head reads those that it can use.

    Raises
    ------
    RunError
        The head is unknown, or does not accept these inputs.
    """
    family = head_class(name)
    if not takes(name, len(widths)):
        found, instead = ", ".join(widths), head_for(len(widths))
        raise RunError(f"{name} needs two or more encoders, found {found}. Use: --head {instead}")
    without = [n for n in family.token_names(config, list(widths)) if n not in (tokens or {})]
    if without and getattr(config, "tokens", "") == "stored":
        raise RunError(
            f"fuse.{name}.tokens = 'stored', but encoder {without[0]!r} stores none. Write tokens = ... in "
            f"[encoder.{without[0]}] and run: mmfeat extract; or use: auto"
        )
    return family(widths, n_classes, config, tokens)
