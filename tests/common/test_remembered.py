"""What is only remembered: absent, stale, damaged or unwritable, it changes no answer and stops no command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.older_projects import older_project

from mmfeat.common import verified
from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.project import Project
from mmfeat.workflows.compare_heads import compare_heads
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.predict import predict
from mmfeat.workflows.status import status


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A project with few runs, whose `.mmfeat` is full."""
    root = older_project("0.1.0", tmp_path_factory.mktemp("memory"))
    for run in (root / "runs").iterdir():
        if run.is_dir() and run.name not in ("crossattn-1", "concat-1", "fm3-1"):
            shutil.rmtree(run)
    answers(root)
    return root


def answers(root: Path) -> list:
    """What commands that only read say of a project."""
    found = status(Project(root))
    lines = [(one.name, one.cached, one.missing, one.stale) for one in found.encoders]
    runs = [(one.name, one.state, one.metrics.scores.samples_f1) for one in ranked_runs(Project(root))]
    rows = np.arange(5)
    logits = [logits_of(Project(root), name, rows).logits.tolist() for name in ("fm3-1", "crossattn-1", "image")]
    figures = evaluate(Project(root), ["crossattn-1", "fm3-1"]).metrics
    scores = {name: one.as_dict() for name, one in figures.items()}
    return [found.failures, found.damaged, lines, runs, logits, scores]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


DAMAGE = {
    "absent": lambda folder: shutil.rmtree(folder),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
    "empty files": lambda folder: [path.write_bytes(b"") for path in _files(folder)],
    "other values": lambda folder: [path.write_text('{"image": 3, "figures": []}') for path in _files(folder)],
    "truncated": lambda folder: [
        path.write_bytes(path.read_bytes()[:-20]) for path in folder.iterdir() if path.is_file()
    ],
    "folders in place of files": lambda folder: [(path.unlink(), path.mkdir()) for path in _files(folder)],
    "flipped": lambda folder: [flip_middle(path) for path in _files(folder)],
}


QUICK = ("a file in its place", "truncated", "flipped")


def flip_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [d if d in QUICK else pytest.param(d, marks=pytest.mark.slow) for d in DAMAGE])
def test_damage_changes_no_answer(whole, tmp_path, damage):
    root = shutil.copytree(whole, tmp_path / "project")
    assert {path.name for path in (root / ".mmfeat").iterdir()} >= {"encoders.json", "digests.parquet"}
    wanted = answers(root)
    DAMAGE[damage](root / ".mmfeat")
    assert answers(root) == wanted


def test_a_folder_that_cannot_be_written_stops_nothing(whole, tmp_path, monkeypatch):
    root = shutil.copytree(whole, tmp_path / "project")
    wanted = answers(root)
    shutil.rmtree(root / ".mmfeat")
    replace, mkdir = os.replace, os.mkdir

    def refused(path: object) -> None:
        if ".mmfeat" in str(path) or "cache" in Path(str(path)).parts:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "replace", lambda a, b: (refused(b), replace(a, b)))
    monkeypatch.setattr(os, "mkdir", lambda path, *more, **named: (refused(path), mkdir(path, *more, **named)))
    assert answers(root) == wanted
    assert not (root / ".mmfeat").exists()


def test_a_user_without_a_cache_folder_is_no_problem(whole, tmp_path, monkeypatch):
    root = shutil.copytree(whole, tmp_path / "project")
    wanted = answers(root)
    (tmp_path / "blocked").write_text("")
    monkeypatch.setattr(verified, "user_cache_path", lambda name: tmp_path / "blocked" / name)
    assert answers(root) == wanted


def test_a_finished_comparison_made_before_seals_is_shown_and_nothing_is_made(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "project")
    heads = root / "comparisons" / "heads-1"
    # tables and the plot may be drawn again, and cached logits of training rows are added to an encoder's
    before = {
        path: path.read_bytes()
        for path in heads.iterdir()
        if path.suffix not in (".csv", ".md", ".png") and not path.name.startswith("output-")
    }
    assert before
    found = compare_heads(Project(root), ["linear", "concat"])
    assert found.folder.name == "heads-1"
    assert {path: path.read_bytes() for path in before} == before


def test_predictions_are_the_same_with_a_file_in_place_of_the_memory(whole, tmp_path):
    tables = []
    for number in range(2):
        root = shutil.copytree(whole, tmp_path / str(number))
        if number:
            shutil.rmtree(root / ".mmfeat")
            (root / ".mmfeat").write_text("")
        predict(Project(root), "crossattn-1", split="all")
        tables.append(pq.read_table(root / "predictions.parquet"))
    assert tables[0].equals(tables[1])
