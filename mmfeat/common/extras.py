"""Packages that only some commands need, and what to type where one is not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from mmfeat.common.errors import ConfigError, one_line


def require(module: str, extra: str) -> ModuleType:
    """Import a module of one of mmfeat's optional extras.

    Raises
    ------
    ConfigError
        It cannot be imported; the message is what to type.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{one_line(error)}. Install what this needs: pip install 'mmfeat[{extra}]'") from None
