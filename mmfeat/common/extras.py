"""Optional packages: an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from mmfeat.common.errors import ConfigError, one_line


def require(module: str, extra: str) -> ModuleType:
    """Import a module of one of mmfeat's optional extras.

    Raises
    ------
    ConfigError
        It cannot be imported; the message gives the command to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{one_line(error)}. Install what this needs: pip install 'mmfeat[{extra}]'") from None
