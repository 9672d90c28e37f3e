"""Imports of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from mmfeat.common.errors import ConfigError, one_line

# Both send usage data to their vendors, unless this is set or missing when they are imported.
_ENVIRONMENT = {"onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"}}
_LEFT_OUT = {"openvino": ["openvino_telemetry"]}  # openvino has a stub for it


def require(module: str, extra: str) -> ModuleType:
    """Import a module that one of mmfeat's optional extras installs.

    Raises
    ------
    ConfigError
        The import fails; the message contains the command that installs the extra.
    """
    for name, value in _ENVIRONMENT.get(module, {}).items():
        os.environ.setdefault(name, value)
    left_out = [] if module in sys.modules else [one for one in _LEFT_OUT.get(module, ()) if one not in sys.modules]
    sys.modules.update(dict.fromkeys(left_out))  # None: its import fails
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{one_line(error)}. Install what this needs: pip install 'mmfeat[{extra}]'") from None
    finally:
        for one in left_out:
            sys.modules.pop(one, None)
