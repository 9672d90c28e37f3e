"""The pooling in a model folder of sentence-transformers, and the steps after pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmfeat.common.errors import EncoderError

POOLINGS = ("cls", "max", "mean")
_POOLING = "1_Pooling"


def stated_pooling(name: str, source: str) -> str:
    """The pooling that a folder or a model of the hub states; `mean` if it states none.

    Raises
    ------
    EncoderError
        mmfeat does not support the stated pooling.
    """
    path = next((one["path"] for one in _modules(source) if _kind(one) == "Pooling"), _POOLING)
    stated = read_json(source, f"{path}/config.json")
    if not isinstance(stated, dict):
        return "mean"
    modes = stated.get("pooling_mode")  # one name or several; older folders have a flag for each pooling
    if modes is None:
        flags = {
            key.removeprefix("pooling_mode_"): value for key, value in stated.items() if key.startswith("pooling_mode_")
        }
        modes = [_of_old(flag) for flag, value in flags.items() if value]
    modes = [modes] if isinstance(modes, str) else [str(mode) for mode in modes] or ["mean"]
    if len(modes) == 1 and modes[0] in POOLINGS:
        return modes[0]
    raise EncoderError(
        f"encoder.{name}: {source} pools by {' and '.join(modes)}, which mmfeat does not support. "
        f'In mmfeat.toml under [encoder.{name}] set: pooling = "mean" (or cls, max)'
    )


def after_pooling(source: str) -> list[str]:
    """The steps after pooling, such as `Normalize` and `Dense`, which mmfeat leaves out."""
    kinds = [_kind(one) for one in _modules(source, fetch=False)]
    return kinds[kinds.index("Pooling") + 1 :] if "Pooling" in kinds else []


def _modules(source: str, fetch: bool = True) -> list[dict[str, str]]:
    modules = read_json(source, "modules.json", fetch)
    if not isinstance(modules, list):
        return []
    return [one for one in modules if isinstance(one, dict) and isinstance(one.get("path"), str)]


def _kind(module: dict[str, str]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _of_old(flag: str) -> str:
    return flag if flag == "mean_sqrt_len_tokens" else flag.removesuffix("_tokens").removesuffix("_token")


def read_json(source: str, file: str, fetch: bool = True) -> Any:
    """A JSON file of a folder or of the hub; None if it does not exist. It is downloaded only with `fetch`."""
    path: Path | str = Path(source) / file
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            path = hf_hub_download(source, file, local_files_only=not fetch)
        except (EntryNotFoundError, OSError, ValueError):  # no such file, or no connection
            return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
