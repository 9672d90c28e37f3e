"""Two identical commands at once make one run: the second finds the first's when it is about to write its own."""

from __future__ import annotations

import contextlib
import shutil

import pytest
from safetensors import SafetensorError

from mmfeat.project.project import Project
from mmfeat.selftraining import saved_rounds
from mmfeat.training import head_plan
from mmfeat.workflows import ensemble as ensemble_module
from mmfeat.workflows import selftrain as selftrain_module
from mmfeat.workflows.fuse import fuse

COMMANDS = {
    "fuse": (head_plan, lambda p: fuse(p, "linear")),
    "fuse --folds": (head_plan, lambda p: fuse(Project(p.root, {"fuse.folds": 2}), "linear")),
    "ensemble": (ensemble_module, lambda p: ensemble_module.ensemble(p, ["image", "crossattn-1"])),
    "ensemble fm1": (ensemble_module, lambda p: ensemble_module.ensemble(p, ["fm1"])),
    "ensemble --method weighted": (
        ensemble_module,
        lambda p: ensemble_module.ensemble(p, ["image", "crossattn-1"], "weighted"),
    ),
    "selftrain": (selftrain_module, lambda p: selftrain_module.selftrain(Project(p.root, {"fuse.head": "linear"}))),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_of_two_at_once_returns_the_run_of_the_first(own, short_rounds, monkeypatch, command):
    module, call = COMMANDS[command]
    first = call(own)
    folders = {path.name for path in own.runs_folder.iterdir()}
    monkeypatch.setattr(module, "already_made", lambda *_: None)  # as it was when the second one began
    second = call(own)
    assert (first.made, second.made) == (True, False)
    assert (second.run.name, second.run.created) == (first.run.name, first.run.created)
    assert {path.name for path in own.runs_folder.iterdir()} == folders
    assert second.lines[-1].samples_f1 == first.lines[-1].samples_f1


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_round_whose_folder_another_process_has_removed_is_not_saved(tmp_path, monkeypatch, is_gone):
    def write(*_) -> None:
        if is_gone:
            shutil.rmtree(tmp_path / "kept")
        raise SafetensorError("I/O error: No such file or directory")

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(saved_rounds, "write_arrays", write)
    with contextlib.nullcontext() if is_gone else pytest.raises(SafetensorError):
        assert saved_rounds.kept_in(tmp_path / "kept")(0, lambda: (1, 2)) == (1, 2)
