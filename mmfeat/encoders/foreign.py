"""Safety checks on models of transformers: custom code in the model's folder, and references to files outside of it.

Custom code runs only with `trust_remote_code = true` in the encoder's table; mmfeat never asks on the terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfeat.common.errors import EncoderError
from mmfeat.common.files import digest_file, digest_json
from mmfeat.common.text import shown
from mmfeat.encoders.families.sentence_folders import read_json

_OURS = ("eager", "sdpa", "flex_attention")  # attention implementations of torch and transformers
_ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_PACKAGE = "transformers_modules."  # package in which transformers imports custom code


class NeedsCode(EncoderError):
    """A model cannot be loaded without running its custom code."""


def never_ask() -> None:
    """Make transformers raise an error instead of asking on the terminal, and disable compiled code from the hub.

    For a nested model (`vision_config`), transformers ignores the outer model's `trust_remote_code` and would ask.
    """
    os.environ["USE_HUB_KERNELS"] = "NO"  # read when transformers is imported
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


@contextlib.contextmanager
def no_code(name: str, model: str, source: str) -> Iterator[None]:
    """Explain the error when transformers refuses to run a model's code.

    Raises
    ------
    NeedsCode
        The model needs custom code.
    """
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:
        if "trust_remote_code=True" not in str(error):
            raise
        found = ", ".join(_code_of(source)) or "auto_map"
        raise NeedsCode(
            f"encoder.{name}: {model!r} needs its own code ({found}), which mmfeat does not run by default. If you have read "
            f"it and trust it, set in mmfeat.toml under [encoder.{name}]: trust_remote_code = true"
        ) from None


def check_files(name: str, model: str, source: str) -> None:
    """Refuse a model that refers to code or files outside its folder, or has unsupported weights.

    Raises
    ------
    EncoderError
        The model has an adapter, quantised weights, attention code from the hub, or a file outside of its folder.
    """
    where = f"encoder.{name}: {model!r}"
    config = read_json(source, "config.json")
    if read_json(source, "adapter_config.json") is not None:
        raise EncoderError(
            f"{where} contains an adapter (adapter_config.json), which mmfeat does not read. Merge it into its model with "
            f"merge_and_unload(), and save the result"
        )
    for key, value in _items(config):
        if key == "quantization_config" and value:
            raise EncoderError(
                f"{where} has quantised weights (quantization_config), which mmfeat does not read. Use another model"
            )
        if key in _ATTENTION and isinstance(value, str) and value not in _OURS:
            raise EncoderError(
                f"{where} sets {key} = {shown(value)!r} in config.json, which mmfeat does not run. Remove that line"
            )
    folder = Path(source)
    if folder.is_dir():
        _check_paths(where, folder)


def own_code_digest(network: Any) -> str:
    """Digest of a network's custom code; empty for a network of transformers itself."""
    module = type(network).__module__
    if not module.startswith(_PACKAGE):
        return ""
    package = module.rpartition(".")[0] + "."
    files = {n.removeprefix(package): m.__file__ for n, m in list(sys.modules.items()) if n.startswith(package)}
    return digest_json({n: digest_file(Path(file)) for n, file in sorted(files.items()) if file})


def brings_code(*objects: Any) -> bool:
    """Whether any object is an instance of a class from custom code."""
    return any(type(one).__module__.startswith(_PACKAGE) for one in objects)


def _check_paths(where: str, folder: Path) -> None:
    """Refuse configurations that name files outside of the folder."""
    stated = read_json(str(folder), "tokenizer_config.json")
    named = {
        key: value
        for key, value in (stated.items() if isinstance(stated, dict) else ())
        if key.endswith("_file") and key not in ("special_tokens_map_file", "tokenizer_config_file")
    }
    for index in folder.glob("*.index.json"):
        shards = read_json(str(folder), index.name)
        weights = shards.get("weight_map") if isinstance(shards, dict) else None
        named |= {f"{index.name}, {shard}": shard for shard in (weights.values() if isinstance(weights, dict) else ())}
    for key, value in named.items():
        path = folder / value if isinstance(value, str) else folder
        outside = os.path.relpath(os.path.abspath(path), os.path.abspath(folder)).startswith("..")
        if outside and path.is_file():
            raise EncoderError(
                f"{where}: {shown(key)} names a file outside of the folder: {shown(value)}. Copy it there"
            )


def _code_of(source: str) -> list[str]:
    """The code that a model's configurations name: `auto_map in config.json: modeling.MyModel`."""
    found = []
    for file in ("config.json", "tokenizer_config.json"):
        for key, value in _items(read_json(source, file)):
            if key == "auto_map":
                names = json.dumps(value).translate(str.maketrans("", "", '"{}[]')).replace("null", "").strip(", ")
                found.append(f"auto_map in {file}: {shown(names)}")
    return found


def _items(value: Any, depth: int = 8) -> Iterator[tuple[str, Any]]:
    """All keys of nested JSON objects, with their values."""
    if depth and isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                yield key, one
            yield from _items(one, depth - 1)
