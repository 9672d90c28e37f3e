"""The work that a changed manifest requires: checkpoints, runs and features to make again, and the next command."""

from __future__ import annotations

from mmfeat.common.json_shapes import ANYTHING
from mmfeat.common.remembered import recall
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.difference import Difference
from mmfeat.encoders.checkpoint import fitted_without_labels


def required_work(config: Config, change: Difference | None) -> tuple[list[str], str]:
    """Lines about the checkpoints, runs and features to make again, and the next command; `mmfeat status` if there are none.

    Parameters
    ----------
    change : Difference, optional
        The difference from the previous manifest; None for the first manifest.
    """
    root, lines, commands = config.root, [], []
    records = [recall(path, ANYTHING) for path in sorted((root / "checkpoints").glob("*/checkpoint.json"))]
    runs = next((root / "runs").glob("*/run.json"), None) is not None
    if change is None:
        return [], "mmfeat status"
    if change.classes and (records or runs):
        frozen = " --freeze" if all(map(fitted_without_labels, records)) else ""
        commands.append(f"mmfeat finetune{frozen}" if records else "mmfeat fuse")
        lines.append(f"  Checkpoints and runs are for the previous classes. Train again, starting with: {commands[0]}")
    if change.unencoded and config.path(config.store.path).is_dir():
        rows = counted(change.unencoded, "new or changed row")
        lines.append(f"  The store may lack features of {rows}. To encode missing samples: mmfeat extract")
        commands.append("mmfeat extract")
    if change.labels and not change.classes and (records or runs):
        rows = counted(len(change.labels), "row")
        lines.append(f"  Checkpoints and runs were trained on the previous labels of {rows}. Train again: mmfeat fuse")
        commands.append("mmfeat fuse" if runs else "mmfeat status")
    return lines, (commands or ["mmfeat status"])[0]
