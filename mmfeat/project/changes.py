"""What a new manifest means for what was made before it, and what to type next."""

from __future__ import annotations

from mmfeat.common.files import read_memory
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.difference import Difference


def follows(config: Config, change: Difference | None) -> tuple[list[str], str]:
    """Lines about what has to be made anew, and the first command of that; `mmfeat status` where nothing has.

    Parameters
    ----------
    change : Difference, optional
        To the manifest of before; None where there was none.
    """
    root, lines, commands = config.root, [], []
    records = [read_memory(path) for path in sorted((root / "checkpoints").glob("*/checkpoint.json"))]
    runs = next((root / "runs").glob("*/run.json"), None) is not None
    if change is None:
        return [], "mmfeat status"
    if change.classes and (records or runs):
        frozen = " --freeze" if all(record.get("frozen") for record in records) else ""
        commands.append(f"mmfeat finetune{frozen}" if records else "mmfeat fuse")
        lines.append(f"  What was trained is of the classes of before. Train again, first: {commands[0]}")
    if change.unencoded and config.path(config.store.path).is_dir():
        rows = counted(change.unencoded, "new or changed row")
        lines.append(f"  The store may lack features of {rows}. What it lacks encodes: mmfeat extract")
        commands.append("mmfeat extract")
    if change.labels and not change.classes and (records or runs):
        rows = counted(len(change.labels), "row")
        lines.append(f"  What was trained has learned from the labels of before of {rows}. Train again: mmfeat fuse")
        commands.append("mmfeat fuse" if runs else "mmfeat status")
    return lines, (commands or ["mmfeat status"])[0]
