"""Which runs a change of labels concerns: those that learned other labels of the rows than they have now, and no others."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run_cli

from mmfeat.project.project import Project
from mmfeat.runs.run import Run
from mmfeat.workflows.apply_review import apply_review, undo_review
from mmfeat.workflows.fuse import fuse

FOLDS = {"fuse.folds": 3, "fuse.head": "concat"}


@pytest.fixture
def folded(own):
    """A project with a head, a recipe of it, and a head in folds: crossattn-1, fm3-1, concat-1."""
    fuse(Project(own.root, FOLDS))
    return own.root


def review_of(folder: Path, split: str, n: int = 1) -> Path:
    """A review of rows of a split with other labels than they have."""
    manifest = Project(folder).manifest
    file = folder / f"{split}.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "labels"])
        for row in manifest.rows(split)[:n]:
            other = np.flatnonzero(manifest.labels[row] != 1)[:2]
            writer.writerow([manifest.ids[row], " ".join(manifest.classes[k] for k in other)])
    return file


def apply(folder: Path, split: str, n: int = 1) -> str:
    return "\n".join(apply_review(Project(folder), review_of(folder, split, n)).lines)


def undo(folder: Path) -> tuple[str, str]:
    result = undo_review(Project(folder))
    return "\n".join(result.lines), result.after


def test_every_run_that_learned_from_a_row_is_listed(folded):
    text = apply(folded, "train")
    assert "Runs trained on labels that have changed: crossattn-1, fm3-1, concat-1" in text
    assert (
        "Checkpoints trained on labels that have changed: image-1, text-1. Train again: mmfeat fuse --head concat"
        in text
    )
    assert "--folds 3" in text
    listed = run_cli("runs", cwd=folded).stdout
    assert listed.count("1 row relabelled since") == 3
    assert (
        "Trained on labels that have changed: crossattn-1, fm3-1, concat-1. See: mmfeat runs"
        in run_cli("status", cwd=folded).stdout
    )
    one = run_cli("evaluate", "concat-1", "image", cwd=folded).stdout
    assert "concat-1: 1 row relabelled since; it learned their earlier labels." in one
    assert "image: 1 row relabelled since" in one


def test_val_rows_taught_only_the_heads_in_folds(folded):
    text = apply(folded, "val", n=2)
    assert (
        "Runs trained on labels that have changed: concat-1. Train again: mmfeat fuse --head concat --folds 3" in text
    )
    assert "Checkpoints" not in text
    listed = run_cli("runs", cwd=folded).stdout
    assert listed.count("2 rows relabelled since") == 1


@pytest.mark.parametrize("split", ["train", "val", "unlabelled"])
def test_undo_leaves_nothing_to_train_again(folded, split):
    apply(folded, split, n=2)
    text, after = undo(folded)
    assert text == ""
    assert after == "mmfeat runs"
    assert "relabelled" not in run_cli("runs", cwd=folded).stdout
    assert "have changed" not in run_cli("status", cwd=folded).stdout


def test_new_labels_concern_no_run(folded):
    text = apply(folded, "unlabelled", n=2)
    assert "2 rows have labels that no run has learned. Train again: mmfeat fuse --head concat --folds 3" in text
    assert "have changed" not in text


def test_a_run_that_learned_what_is_undone_is_listed(folded):
    apply(folded, "train")
    fuse(Project(folded), "linear")
    text, after = undo(folded)
    assert text == "  Runs trained on labels that have changed: linear-1. Train again: mmfeat fuse --head linear"
    assert after == "mmfeat fuse --head linear"
    again = apply_review(Project(folded), folded / "train.csv")
    assert "Runs trained on labels that have changed: crossattn-1, fm3-1, concat-1\n" in "\n".join(again.lines)


def test_runs_that_recorded_no_labels_are_judged_by_their_time(folded, monkeypatch):
    """Runs and checkpoints of versions 0.1 and 0.2."""
    from mmfeat.encoders.checkpoint import Checkpoint

    for model in (Run, Checkpoint):
        learned = model.learned
        monkeypatch.setattr(
            model,
            "learned",
            lambda self, learned=learned: dataclasses.replace(learned(self), taught=np.zeros((0, 2), np.uint64)),
        )
    text = apply(folded, "train")
    assert "Runs trained on labels that have changed: crossattn-1, fm3-1, concat-1" in text
    assert "relabelled" not in run_cli("runs", cwd=folded).stdout  # it is not known
    fuse(Project(folded), "linear")
    text, _ = undo(folded)
    assert text == "  Runs trained on labels that have changed: linear-1. Train again: mmfeat fuse --head linear"
