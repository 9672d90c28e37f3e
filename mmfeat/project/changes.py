"""The work that a changed manifest requires: checkpoints, runs and features to make again, and the next command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.json_shapes import ANYTHING
from mmfeat.common.lineage import Lineage, labelled_rows
from mmfeat.common.remembered import recall
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.data.difference import Difference
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.checkpoint import RECORD, fitted_without_labels, read_checkpoint
from mmfeat.project.staleness import command_for
from mmfeat.runs.run import all_runs

SHOWN = 8  # models that a line names


def required_work(
    config: Config, change: Difference | None, manifest: Manifest, *, restored: str = ""
) -> tuple[list[str], str]:
    """Lines about the checkpoints, runs and features to make again, and the next command; `mmfeat status` if there are none.

    Parameters
    ----------
    change : Difference, optional
        The difference from the previous manifest; None for the first manifest.
    manifest : Manifest
        The manifest as it is now.
    restored : str
        If the change undoes an earlier one: the time of that one, as run.json writes it. Models of versions that did not
        record labels count as trained on the present labels if they are older.
    """
    root, lines, commands = config.root, [], []
    records = [recall(path, ANYTHING) for path in sorted((root / "checkpoints").glob(f"*/{RECORD}"))]
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
        again, command = _about_labels(config, change, manifest, restored=restored)
        lines += again
        commands.append(command)
    return lines, (commands or ["mmfeat status"])[0]


def _about_labels(config: Config, change: Difference, manifest: Manifest, *, restored: str) -> tuple[list[str], str]:
    """Lines about models that learned other labels of the changed rows and about new labels, and the next command."""
    runs = [run for run in all_runs(config.root / "runs") if not run.damage()]
    stale = [run for run in runs if _is_relabelled(run, change, manifest, older=str(run.record["created"]) < restored)]
    checkpoints = [
        one
        for one in _checkpoints(config.root / "checkpoints")
        if _is_relabelled(one, change, manifest, older=bool(restored))
    ]
    new = [sample for sample, (before, now) in change.labels.items() if before is None and now is not None]
    lines = [
        f"  {what} trained on labels that have changed: {', '.join(one.name for one in models[:SHOWN])}"
        + (f" and {len(models) - SHOWN} more" if len(models) > SHOWN else "")
        for what, models in (("Runs", stale), ("Checkpoints", checkpoints))
        if models
    ]
    lines += [f"  {counted(len(new), 'row has', 'rows have')} labels that no run has learned"] if new else []
    if not runs or not (stale or new):
        return lines, "mmfeat runs" if runs else "mmfeat status"
    heads = [run for run in stale or runs if run.kind != "ensemble"]
    command = command_for(config, heads[-1]) if heads else "mmfeat fuse"
    return [*lines[:-1], f"{lines[-1]}. Train again: {command}"], command


def _checkpoints(folder: Path) -> Iterator[Any]:
    for file in sorted(folder.glob(f"[!.]*-[0-9]*/{RECORD}")):
        try:
            yield read_checkpoint(file.parent)
        except MmfeatError:  # reported by `mmfeat status`
            continue


def _is_relabelled(model: Any, change: Difference, manifest: Manifest, *, older: bool) -> bool:
    """Whether a run or checkpoint learned other labels of the changed rows than the manifest has now."""
    try:
        learned: Lineage = model.learned()
    except MmfeatError:
        return False
    if len(learned.taught):
        rows = np.flatnonzero([sample in change.labels for sample in manifest.ids.tolist()])
        now = labelled_rows(manifest.ids[rows], manifest.labels[rows], manifest.classes)
        return bool(learned.relabelled(now).any())
    given = [sample for sample, (before, _) in change.labels.items() if before is not None]
    trained = learned.among(given)[0].any() or learned.is_out_of_fold(given).any() if given else False
    return bool(trained) and not older
