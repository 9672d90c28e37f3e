"""Writes new runs. A run appears whole or not at all, under its name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmfeat.common.errors import RunError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.files import flush_files, flush_folder, publish_folder, staging_folder
from mmfeat.common.hdf5_writing import writing_hdf5
from mmfeat.common.lineage import Lineage
from mmfeat.common.seals import seal_folder
from mmfeat.common.unwritable import UnwritableFile
from mmfeat.runs.run import FORMAT, HEAD_FILE, LOGITS_FILE, RECORD, Run, RunLogits, all_runs, sound_run
from mmfeat.runs.run_names import LOCK, NO_NAME, Naming


def save_run(
    parent: Path,
    stem: str,
    record: dict[str, Any],
    *,
    logits: RunLogits,
    learned: Lineage,
    state: dict[str, Any] | None = None,
    naming: Naming = NO_NAME,
) -> Run:
    """Write `parent/STEM-<next number>`, or the folder of the name in `naming`, atomically.

    Without a name, a run with the same fingerprint that another process has made in the meantime is returned instead.

    Parameters
    ----------
    learned : Lineage
        The lineage of the head and its encoders, or of all members of an ensemble.
    state : dict of torch.Tensor, optional
        The tensors of the heads; None for an ensemble.

    Raises
    ------
    RunError
        Meanwhile the name was taken, or a member was deleted.
    """
    kept = {"folded": learned.out_of_fold, "taught": learned.taught}
    flags = {name: True for name, numbers in kept.items() if len(numbers)}
    record = {"format": FORMAT, **record, **flags, **({"note": naming.note} if naming.note else {})}
    with staging_folder(parent) as staged:
        if state is not None:
            from safetensors.torch import save_file

            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, staged / HEAD_FILE)
        with writing_hdf5(staged / LOGITS_FILE) as file:
            file.attrs["format"] = FORMAT
            file.attrs["classes"] = json.dumps(record["classes"])
            file.create_dataset("ids", data=[str(i) for i in logits.ids], dtype=h5py.string_dtype("utf-8"))
            file.create_dataset("input_key", data=logits.input_keys)
            file.create_dataset("known", data=logits.known)
            file.create_dataset("logits", data=logits.logits.astype(np.float32, copy=False))
            file.create_dataset("role", data=logits.roles.astype(np.uint8))
            if logits.fold is not None:
                file.create_dataset("fold", data=logits.fold.astype(np.int16))
            for name in flags:
                file.create_dataset(name, data=kept[name])
            file.create_dataset("trained", data=learned.training)
            file.create_dataset("chosen", data=learned.selection)
        record = seal_folder(staged, RECORD, record)
        with alone_in(parent, LOCK, wait=True):
            others = all_runs(parent)
            _check_members(record, others)
            if naming.name:
                return Run(_publish_named(staged, parent / naming.name), record, is_new=True)
            if twin := sound_run(others, record["fingerprint"]):
                return twin
            former = [name for run in others for name in run.former_names]
            return Run(publish_folder(staged, parent, stem, former), record, is_new=True)


def _check_members(record: dict[str, Any], others: Sequence[Run]) -> None:
    """Raise RunError if a member of a new ensemble is gone; `others` are all runs that are there."""
    there = {run.record["fingerprint"] for run in others}
    for member in record.get("members", ()):
        if member["fingerprint"] is not None and member["fingerprint"] not in there:
            raise RunError(f"the member {member['name']} was deleted meanwhile. Nothing was made")


def _publish_named(staged: Path, final: Path) -> Path:
    """Rename a finished folder to its name. Raises RunError if another process has taken the name meanwhile."""
    flush_files(staged, final.parent)
    try:
        os.rename(staged, final)
    except OSError as error:
        if not final.exists():
            raise UnwritableFile(error.errno, final) from None
        raise RunError(f"runs/{final.name} was made meanwhile by another command. Use another name") from None
    flush_folder(final.parent)
    return final
