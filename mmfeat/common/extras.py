"""Imports of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from mmfeat.common.errors import ConfigError, one_line

# onnxruntime sends usage data to its vendor unless this is set when it is imported
_ENVIRONMENT = {"onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"}}


def require(module: str, extra: str) -> ModuleType:
    """Import a module that one of mmfeat's optional extras installs.

    Raises
    ------
    ConfigError
        The import fails; the message contains the command that installs the extra.
    """
    for name, value in _ENVIRONMENT.get(module, {}).items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{one_line(error)}. Install what this needs: pip install 'mmfeat[{extra}]'") from None
