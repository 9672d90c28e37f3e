"""Projects of older versions: they open, encode nothing again, predict what they predicted, and go on."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.older_projects import VERSIONS, older_project
from mmfeat.cli import group

from mmfeat.inference.logits import logits_of
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.workflows.predict import predict

RUNS = (
    "linear-1",
    "selftrain-1",
    "linear-2",
    "mlp-1",
    "concat-1",
    "crossattn-1",
    "gated-1",
    "weighted-1",
    "labelquery-1",
    "linear-3",
    "mlp-2",
    "linear-4",
    "fm1-1",
    "fm2-1",
    "fm3-1",
    "ensemble-1",
    "ensemble-2",
    "ensemble-3",
    "ensemble-4",
    "selftrain-2",
    "selftrain-3",
)
ENCODERS = ("image", "text", "frozen", "words", "clip")


@pytest.fixture(scope="module", params=VERSIONS)
def kept(request, tmp_path_factory) -> Path:
    """A project as it was left; for tests that only read it."""
    return older_project(request.param, tmp_path_factory.mktemp("kept"))


@pytest.fixture
def folder(kept, tmp_path, monkeypatch) -> Path:
    """A copy of it, the current folder."""
    shutil.copytree(kept, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def mmfeat(*words: str) -> Result:
    """Run a command in the current folder, which must succeed."""
    result = CliRunner().invoke(group, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def made(folder: Path) -> set[str]:
    """What stands in the folders where commands put what they make."""
    parts = ("runs", "checkpoints", "comparisons", "sweeps")
    return {str(path.relative_to(folder)) for part in parts for path in (folder / part).glob("*")}


def names_of(folder: Path) -> list[str]:
    return [path.name for path in (folder / "runs").iterdir() if path.is_dir()]


def test_it_holds_a_run_of_every_kind(kept):
    assert sorted(names_of(kept)) == sorted(RUNS)
    records = [json.loads((kept / "runs" / name / "run.json").read_text(encoding="utf-8")) for name in RUNS]
    heads = {record["head"] for record in records if record.get("head")}
    assert heads >= {"linear", "mlp", "concat", "crossattn", "gated", "weighted", "labelquery"}
    assert {record["kind"] for record in records} >= {"head", "ensemble", "selftrain"}


def test_status_shows_everything_cached(folder):
    lines = mmfeat("status").stdout.splitlines()
    assert "All features are cached" in lines[-1]
    table = {line.split()[0]: line.split()[2:7] for line in lines[1:6]}
    assert table == {
        "image": ["60", "0", "0", "0", "0"],
        "text": ["59", "0", "0", "0", "1"],
        "frozen": ["59", "0", "0", "0", "1"],
        "words": ["59", "0", "0", "0", "1"],
        "clip": ["56", "0", "0", "0", "4"],
    }


def test_extract_encodes_nothing(folder):
    result = extract(Project(folder))
    assert {e.name: e.encoded for e in result.encoders} == dict.fromkeys(ENCODERS, 0)
    assert "up to date" in mmfeat("extract").stdout


def test_runs_ranks_all_of_them_as_current(folder):
    shown = {line.split()[0]: line for line in mmfeat("runs").stdout.splitlines() if line}
    for name in (*RUNS, *ENCODERS):
        assert re.search(r"\bcurrent\b", shown[name]), name


@pytest.mark.parametrize("name", [*RUNS, *ENCODERS])
def test_every_run_and_encoder_gives_the_probabilities_of_then(kept, name):
    expected = np.array(json.loads((kept / "expected.json").read_text())[name])
    rows = Project(kept).manifest.rows("unlabelled")
    logits = logits_of(Project(kept), name, rows).logits
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("name", RUNS)
def test_predict_by_every_run(folder, name):
    (folder / "submission.csv").unlink()
    (folder / "predictions.parquet").unlink()
    result = predict(Project(folder), name)
    assert result.n_rows == 8
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 9


@pytest.mark.parametrize("name", ["crossattn-1", "linear-4", "ensemble-3", "selftrain-1"])
def test_predict_new_rows_that_are_cached(folder, name):
    mmfeat("predict", name, "new.csv", "--images", "data/images.zip", "--out", "again.csv")
    assert len((folder / "again.csv").read_text(encoding="utf-8").splitlines()) == 13
    if name == "crossattn-1":
        assert (folder / "again.csv").read_bytes() == (folder / "new-predictions.csv").read_bytes()


def test_predictions_of_then_are_made_again_to_the_byte(folder):
    before = (folder / "submission.csv").read_bytes()
    (folder / "submission.csv").unlink()
    (folder / "predictions.parquet").unlink()
    mmfeat("predict", "crossattn-1")
    assert (folder / "submission.csv").read_bytes() == before


def test_evaluate(folder):
    before = (folder / "runs" / "crossattn-1" / "evaluation-val.csv").read_bytes()
    (folder / "runs" / "crossattn-1" / "evaluation-val.csv").unlink()
    mmfeat("evaluate", "crossattn-1", "image")
    assert (folder / "runs" / "crossattn-1" / "evaluation-val.csv").read_bytes() == before
    mmfeat("evaluate", "linear-4", "fm3-1", "selftrain-2", "--split", "train+val")


@pytest.mark.parametrize("model", ["model", "model-onnx"])
def test_predict_by_an_exported_model(folder, model):
    if model == "model-onnx":
        pytest.importorskip("onnxruntime")
    mmfeat("predict", "new.csv", "--images", "data/images.zip", "--model", model, "--out", "by-model.csv")
    assert len((folder / "by-model.csv").read_text(encoding="utf-8").splitlines()) == 13


def test_export_of_an_older_run(folder):
    mmfeat("export", "fm3-1", "model-again")
    words = ("new.csv", "--images", "data/images.zip")
    mmfeat("predict", *words, "--model", "model", "--out", "a.csv")
    mmfeat("predict", *words, "--model", "model-again", "--out", "b.csv")
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()


def test_reviews_are_taken_back_one_after_the_other(folder):
    mmfeat("review", "--apply", "doubtful.csv")  # was applied then: does nothing
    assert len((folder / "corrections.csv").read_text(encoding="utf-8").splitlines()) == 7
    mmfeat("review", "--undo")
    assert len((folder / "corrections.csv").read_text(encoding="utf-8").splitlines()) == 5
    mmfeat("review", "--undo")
    assert not (folder / "corrections.csv").exists()


def test_a_review_is_made(folder):
    mmfeat("review", "concat-1", "--n", "3", "--out", "more.csv")
    assert len((folder / "more.csv").read_text(encoding="utf-8").splitlines()) == 4


AGAIN = [
    "fuse --head crossattn --seeds 2",
    "fuse --head labelquery",
    "fuse --head linear --inputs words",
    "fuse --head mlp --inputs frozen,words,clip",
    "fuse --head linear --folds 3",
    "ensemble fm1",
    "ensemble fm2",
    "ensemble fm3",
    "ensemble image text concat-1 --method weighted",
    "ensemble image text concat-1 --method per-class",
    "ensemble image text concat-1 --method stacked",
    "ensemble image text concat-1 --method greedy",
    "selftrain",
    "selftrain --policy all --head linear",
    "sweep fuse --head linear --lr 1e-3,1e-2",
    "sweep finetune text --lr 1e-4,5e-4 --epochs 1",
    "compare heads linear concat",
    "compare encoders image text words --freeze",
]


@pytest.mark.parametrize("command", AGAIN)
def test_a_finished_command_typed_again_makes_nothing(folder, command):
    before = made(folder)
    shown = mmfeat(*command.split()).stdout
    assert made(folder) == before
    if command.startswith(("fuse", "ensemble", "selftrain")):
        assert "lready made" in shown
    if command.startswith("sweep"):
        assert "0 trained now" in shown


def test_init_changes_no_split_and_no_label(folder):
    before = Project(folder).manifest
    mmfeat("init")
    after = Project(folder).manifest
    assert after.ids.tolist() == before.ids.tolist()
    assert after.split.tolist() == before.split.tolist()
    assert np.array_equal(after.labels, before.labels)


def test_the_store_is_whole_and_nothing_in_use_is_removed(folder):
    mmfeat("store", "verify")
    mmfeat("store", "gc", "--yes")
    assert extract(Project(folder)).encoders
    assert "up to date" in mmfeat("extract").stdout


def test_a_run_of_then_is_renamed_and_its_ensembles_stay_current(folder):
    from mmfeat.project.staleness import state_of
    from mmfeat.runs.run import all_runs

    before = {run.name: run.members for run in all_runs(folder / "runs")}
    used = next(m["name"] for members in before.values() for m in members if m["fingerprint"])
    mmfeat("runs", "--rename", used, "baseline")
    mmfeat("runs", "--note", "baseline", "of then")
    project = Project(folder)
    for run in all_runs(folder / "runs"):
        assert state_of(project, run) == "current", run.name
        old = before[used if run.name == "baseline" else run.name]
        assert [m["name"] for m in run.members] == ["baseline" if m["name"] == used else m["name"] for m in old]
    refused = CliRunner().invoke(group, ["runs", "--delete", "baseline"])
    assert "is a member of" in str(refused.exception)


def test_a_new_run_is_made_beside_the_older_ones(folder):
    mmfeat("fuse", "--head", "linear", "--seed", "5")
    mmfeat("ensemble", "linear-5", "crossattn-1")
    assert {"linear-5", "ensemble-5"} <= set(names_of(folder))
