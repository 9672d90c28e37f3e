"""Imports of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from mmfeat.common.errors import ConfigError, one_line


def require(module: str, extra: str) -> ModuleType:
    """Import a module that one of mmfeat's optional extras installs.

    Raises
    ------
    ConfigError
        The import fails; the message contains the command that installs the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{one_line(error)}. Install what this needs: pip install 'mmfeat[{extra}]'") from None
