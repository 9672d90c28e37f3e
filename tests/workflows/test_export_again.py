"""Exports typed again: what was made from the same is left as it is, and nothing else is ever replaced."""

from __future__ import annotations

import json
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from helpers.command_line import COMMAND, run_cli

from mmfeat.common.errors import DataError
from mmfeat.common.seals import read_sealed, write_sealed
from mmfeat.inference import model_export as exporting
from mmfeat.predictor.folder import read_folder
from mmfeat.project.project import Project
from mmfeat.store.table_exports import FORMATS
from mmfeat.workflows.export import export
from mmfeat.workflows.store import export_features


def state_of(path):
    """Names, inodes and times of all files."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(str(file), file.stat().st_ino, file.stat().st_mtime_ns) for file in files]


# mmfeat export


@pytest.fixture
def model(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    return tmp_path / "model"


def test_the_same_export_does_nothing_and_builds_nothing(trained, model, monkeypatch):
    monkeypatch.setattr(Project, "built", None)
    (model / "README.md").write_text("licence: mine\n")
    before = state_of(model)
    result = export(Project(trained), "fm3-1", model)
    assert (result.made, result.folder) == (False, model)
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("run", "more", "overrides"),
    [
        ("crossattn-1", {}, {}),
        ("fm3-1", {"dtype": "float16"}, {}),
        ("image", {}, {}),
        ("fm3-1", {}, {"predict.threshold": 0.3}),
        ("fm3-1", {}, {"predict.empty": "none"}),
    ],
)
def test_another_export_is_refused(trained, model, run, more, overrides):
    before = state_of(model)
    with pytest.raises(DataError, match="exists and was made from something else") as error:
        export(Project(trained, overrides), run, model, **more)
    assert "\n" not in str(error.value)
    assert state_of(model) == before


@pytest.mark.parametrize("damage", ["truncated", "gone", "record", "first version", "another folder", "a file"])
def test_what_is_not_a_whole_export_of_the_same_is_refused(trained, model, damage):
    if damage == "truncated":
        (model / "heads.safetensors").write_bytes((model / "heads.safetensors").read_bytes()[:-1])
    elif damage == "gone":
        (model / "heads.safetensors").unlink()
    elif damage == "record":
        (model / "mmfeat.json").write_text("{}")
    elif damage == "first version":
        record = read_sealed(model / "mmfeat.json")
        record.pop("made_from")
        write_sealed(model / "mmfeat.json", record)
        assert read_folder(model)  # it predicts as ever
    else:
        shutil.rmtree(model)
        if damage == "a file":
            model.write_text("mine")
        else:
            model.mkdir()
            (model / "mine.txt").write_text("mine")
    before = state_of(model)
    with pytest.raises(DataError, match="exists") as error:
        export(Project(trained), "fm3-1", model)
    assert "\n" not in str(error.value)
    assert state_of(model) == before


def test_of_two_at_once_the_slower_says_that_it_is_made(trained, tmp_path, exported, monkeypatch):
    real = exporting.publish

    def later(staged, destination):
        shutil.copytree(exported, destination)
        real(staged, destination)

    monkeypatch.setattr(exporting, "publish", later)
    assert not export(Project(trained), "fm3-1", tmp_path / "model").made
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# mmfeat store export


@pytest.fixture(scope="module")
def kept(trained, tmp_path_factory):
    """A project, and an export of it in each format."""
    folder = tmp_path_factory.mktemp("exports")
    for form in FORMATS:
        assert export_features(Project(trained), folder / f"out.{form}", form).made
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_features_are_not_written_again(trained, kept, form):
    before = state_of(kept / f"out.{form}")
    result = export_features(Project(trained), kept / f"out.{form}", form)
    assert not result.made
    assert result.table.n_samples == Project(trained).manifest.n_samples
    assert state_of(kept / f"out.{form}") == before


@pytest.mark.parametrize("form", FORMATS)
def test_other_features_rows_or_formats_are_refused(trained, kept, form):
    before = state_of(kept / f"out.{form}")
    other = next(one for one in FORMATS if one != form)
    for arguments, split in (
        ((form, ["text"]), "all"),
        ((form, ["text", "image"]), "all"),
        ((form,), "val"),
        ((other,), "all"),
    ):
        with pytest.raises(DataError, match="exists"):
            export_features(Project(trained), kept / f"out.{form}", *arguments, split=split)
    changed = Project(trained)
    changed.manifest.labels[0, 0] ^= 1
    with pytest.raises(DataError, match="exists"):
        export_features(changed, kept / f"out.{form}", form)
    assert state_of(kept / f"out.{form}") == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_cut_short_or_of_the_first_version_is_not_taken_for_whole(trained, kept, tmp_path, form):
    target = tmp_path / f"out.{form}"
    (shutil.copytree if form == "npy" else shutil.copy)(kept / target.name, target)
    victim = target / "embeddings.image.npy" if form == "npy" else target
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(DataError, match="exists"):
        export_features(Project(trained), target, form)
    if form == "npy":
        victim.unlink()
        with pytest.raises(DataError, match="exists"):
            export_features(Project(trained), target, form)
    if form == "h5":
        shutil.copy(kept / target.name, target)
        with h5py.File(target, "r+") as h5:
            del h5.attrs["made_from"]
        with pytest.raises(DataError, match="exists"):
            export_features(Project(trained), target, form)


def test_anything_else_is_left_alone(trained, tmp_path):
    for form, make in {"h5": "mine.h5", "npy": "mine", "parquet": "mine.parquet"}.items():
        target = tmp_path / make
        target.mkdir() if form == "npy" else target.write_text("mine")
        before = state_of(target)
        with pytest.raises(DataError, match="exists"):
            export_features(Project(trained), target, form)
        assert state_of(target) == before


def test_two_exports_at_once_make_one(trained, tmp_path):
    command = [COMMAND, "--project", str(trained), "store", "export", "out", "text"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    ids = json.loads((tmp_path / "out" / "ids.json").read_text())
    assert len(np.load(tmp_path / "out" / "embeddings.text.npy")) == len(ids)
    assert "Already made from the same" in run_cli(*command[1:], cwd=tmp_path).stdout
