"""What was stopped right after a run or a checkpoint was there is completed by the same command."""

from __future__ import annotations

import torch
from helpers.images import is_drawn

from mmfeat.common.files import temporary_name
from mmfeat.encoders.finetuning.resume_state import keep_state
from mmfeat.project.project import Project
from mmfeat.training.encoder_training import resume_file_of
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.selftrain import RESUME, selftrain
from mmfeat.workflows.store import find_unreferenced

GONE = temporary_name().split("-")[1]


def test_a_fine_tuning_stopped_before_its_curve_and_after_its_checkpoint(project, drawn):
    made = finetune(project, ["text"]).encoders[0]
    folder, kept = made.checkpoint.folder, resume_file_of(project, "text")
    (folder / "learning-curve.png").unlink()
    keep_state(kept, {"model": {"weight": torch.zeros(2)}}, {"fingerprint": made.checkpoint.record["fingerprint"]})
    again = finetune(Project(project.root), ["text"]).encoders[0]
    assert not again.made
    assert is_drawn(folder / "learning-curve.png")
    assert not kept.exists()
    keep_state(kept, {"model": {"weight": torch.zeros(2)}}, {"fingerprint": "of other settings"})
    finetune(Project(project.root), ["text"])
    assert kept.is_file()


def test_a_self_training_stopped_before_its_rounds_were_written(extracted, drawn):
    project = Project(extracted.root, {"fuse.head": "linear"})
    run = selftrain(project).run
    table = (run.folder / "rounds.csv").read_bytes()
    (run.folder / "rounds.csv").unlink()
    folder = project.runs_folder / RESUME / run.record["fingerprint"][:16]
    (folder.parent / "other").mkdir(parents=True)
    folder.mkdir()
    (folder / "round-0.npz").write_bytes(b"")
    again = selftrain(Project(extracted.root, {"fuse.head": "linear"}))
    assert not again.made
    assert (run.folder / "rounds.csv").read_bytes() == table
    assert is_drawn(run.folder / "rounds.png")
    assert [path.name for path in (project.runs_folder / RESUME).iterdir()] == ["other"]


def test_a_removal_from_the_store_stopped_midway_is_completed(extracted):
    store = extracted.store.path
    left = store / f".tmp-{GONE}-99999999-aa"
    left.mkdir()
    (left / "part-1.h5").write_bytes(b"x" * 1000)
    assert find_unreferenced(extracted).garbage == []
    assert not left.exists()
