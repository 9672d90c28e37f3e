"""Whether `mmfeat init` may start a project over: mmfeat.toml is as it was written, and nothing was made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmfeat.common.remembered import recall, remember
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.data import corrections, review_journal, review_table
from mmfeat.report.outputs import Outputs
from mmfeat.report.protected_paths import FOLDERS

STARTED_OVER = f"  {FILE_NAME} is replaced: nobody had changed it, and nothing was encoded or trained from it"
_KEPT = Path(".mmfeat") / "init.json"


def keep_arguments(folder: Path, asked: dict[str, Any]) -> None:
    """Keep the arguments that a new mmfeat.toml was made with."""
    remember(folder / _KEPT, {"asked": asked})


def has_other_arguments(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether mmfeat.toml was made with other arguments, also if some are left out now; False if they are unknown."""
    kept = recall(folder / _KEPT).get("asked")
    return kept is not None and kept != json.loads(json.dumps(asked))


def may_start_over(config: Config) -> bool:
    """Whether nothing is lost if mmfeat.toml and the manifest are replaced by those of other options."""
    names = (*FOLDERS, corrections.FILE, review_table.FILE, review_journal.FILE)
    made = [config.path(config.store.path), *(config.root / name for name in names if name != ".mmfeat")]
    return Outputs(config).made(config.root / FILE_NAME) and not any(map(_holds_something, made))


def _holds_something(path: Path) -> bool:
    return next(path.iterdir(), None) is not None if path.is_dir() else path.exists()
