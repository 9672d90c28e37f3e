"""Every value of a record, changed to another type, out of range or removed: one line, or the same answers."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.older_projects import older_project, tried

from mmfeat.common.files import write_json
from mmfeat.common.seals import read_sealed, write_sealed
from mmfeat.encoders.checkpoint import read_checkpoint
from mmfeat.inference.logits import logits_of
from mmfeat.inference.networks import compose, model_record
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictor
from mmfeat.project.project import Project
from mmfeat.project.staleness import remake_command
from mmfeat.runs.run import read_run

REMOVED = object()
OTHERS = (REMOVED, None, True, -1, 0.5, "x y", "", [], {}, [None], 2**70)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project that version 0.1.0 has made, with few runs; for tests that only read it."""
    root = older_project("0.1.0", tmp_path_factory.mktemp("altered"))
    for run in (root / "runs").iterdir():
        if run.is_dir() and run.name not in (
            "crossattn-1",
            "concat-1",
            "fm3-1",
            "selftrain-1",
            "ensemble-4",
            "linear-4",
        ):
            shutil.rmtree(run)
    return root


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where a JSON value has others, itself left out; of a long list its first two."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, below in items:
        yield (*at, key)
        yield from places(below, (*at, key))


def altered(record: dict[str, Any]) -> list[tuple[tuple, Any, dict[str, Any]]]:
    """Each place with each other value, and the record with it."""
    found = []
    for place in places(record):
        for other in OTHERS:
            changed = copy.deepcopy(record)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if other is REMOVED:
                del holder[place[-1]]
            elif type(holder[place[-1]]) is type(other) and not isinstance(other, str) and other != -1:
                continue  # of the same type, and within the range for all that is known here
            else:
                holder[place[-1]] = other
            found.append((place, "removed" if other is REMOVED else other, changed))
    return found


def check_export(folder: Path, sample: int | None, seed: int = 0) -> None:
    record = read_sealed(folder / "mmfeat.json")
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    captions = ["a circle and a star above a moon", None]
    reads = set(Predictor.load(folder).modalities.values())
    images = list(image) if "image" in reads else None
    wanted = Predictor.load(folder).predict(images, captions)
    cases = altered({key: value for key, value in record.items() if key not in ("files", "run", "made_by")})
    for place, other, changed in cases if sample is None else random.Random(seed).sample(cases, sample):
        write_sealed(folder / "mmfeat.json", {**changed, "files": record["files"], "run": record["run"]})
        found, said = tried(lambda: Predictor.load(folder).predict(images, captions))
        if said:
            assert "\n" not in said
            assert str(folder) in said, (place, other)
            continue
        free = place[-1] in ("threshold", "temperature") or place[:3] == ("model", "tree", "prior")
        free = free or place[-1] in ("crop_pct", "crop_mode")  # without them others than the export's own are usual
        if free or place[:3] == ("model", "tree", "weights"):  # another number within the range is a setting
            assert isinstance(other, float | int | str)
            continue
        if place[0] != "classes":
            assert found.labels == wanted.labels, (place, other)
        assert np.allclose(found.probs, wanted.probs, equal_nan=True, atol=1e-6), (place, other)


def test_an_altered_record_of_an_export_is_one_line_or_changes_nothing(made, tmp_path):
    check_export(shutil.copytree(made / "model", tmp_path / "model"), 30)


@pytest.mark.exhaustive
@pytest.mark.parametrize("runtime", ["model", "model-onnx"])
def test_every_altered_record_of_an_export_is_one_line_or_changes_nothing(made, tmp_path, runtime):
    check_export(shutil.copytree(made / runtime, tmp_path / "model"), None)


def use(project: Project, name: str) -> None:
    """Whatever reads a run's record."""
    run = read_run(project.runs_folder / name).in_order_of(project.manifest.classes[::-1])
    assert isinstance(run.size_mb, float | int | None)
    assert isinstance(remake_command(project, run), str)
    assert run.baseline_keys is not None
    logits_of(project, name, np.arange(3))
    logits_of(project, name, np.arange(3), shipped=True)
    model_record(project, compose(project, name))


def check_run(root: Path, name: str, sample: int | None, seed: int = 0) -> None:
    """A run.json without a seal: all that reads it gives an answer, or one line."""
    file = root / "runs" / name / "run.json"
    text = file.read_text(encoding="utf-8")
    record = json.loads(text)
    unread = {key: value for key, value in record.items() if key in ("versions", "git", "origins", "history")}
    cases = altered({key: value for key, value in record.items() if key not in unread})
    project = Project(root)
    for place, other, changed in cases if sample is None else random.Random(seed).sample(cases, sample):
        write_json(file, {**unread, **changed})
        _, said = tried(lambda: use(project, name))
        assert "\n" not in said, (place, other)
        known = (name, "no logits of encoder")
        assert not said or any(text in said for text in known), (place, other, said)
    file.write_text(text, encoding="utf-8")


RUNS = ("crossattn-1", "fm3-1", "selftrain-1", "ensemble-4", "linear-4")


@pytest.mark.parametrize("name", RUNS)
def test_an_altered_run_without_a_seal_is_one_line_or_an_answer(made, tmp_path, name):
    check_run(shutil.copytree(made, tmp_path / "project"), name, 12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RUNS)
def test_every_altered_run_without_a_seal_is_one_line_or_an_answer(made, tmp_path, name):
    check_run(shutil.copytree(made, tmp_path / "project"), name, None)


def test_an_altered_checkpoint_without_a_seal_is_one_line_or_an_answer(made, tmp_path):
    for name in ("text-3", "words-1", "frozen-1"):
        folder = shutil.copytree(made / "checkpoints" / name, tmp_path / name)
        record = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        for place, other, changed in altered({k: v for k, v in record.items() if k not in ("history", "made_on")}):
            write_json(folder / "checkpoint.json", {**changed, "made_on": record["made_on"]})
            _, said = tried(lambda folder=folder: use_checkpoint(folder))
            assert "\n" not in said, (place, other)
            assert not said or name in said, (place, other, said)


def use_checkpoint(folder: Path) -> None:
    """Whatever reads a checkpoint's record."""
    found = read_checkpoint(folder)
    assert all(part is not None for part in (found.output().key, found.encoder_key, found.label_free, found.damage()))
    found.learned()


def test_an_ensemble_whose_members_run_was_swapped_says_so(made, tmp_path):
    root = shutil.copytree(made, tmp_path / "project")
    shutil.rmtree(root / "runs" / "crossattn-1")
    shutil.copytree(root / "runs" / "concat-1", root / "runs" / "crossattn-1")
    project = Project(root)
    _, said = tried(lambda: compose(project, "fm3-1"))
    assert "its member crossattn-1" in said
    assert "mmfeat ensemble fm3" in said
    states = {one.name: one.state for one in ranked_runs(project)}
    assert states["fm3-1"].startswith("stale: its member crossattn-1 ")


@pytest.mark.parametrize("temperature", [0, -1, -0.0, "2", None, True, [1.0], float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature is .*, not a number above 0"):
        DecisionRule.of({"temperature": temperature, "threshold": 0.5, "empty": "none"})


@pytest.mark.parametrize("threshold", [-0.1, 1.1, "0.5", None, [0.5, 2], [[0.5]], float("nan"), False])
def test_a_threshold_that_is_not_from_0_to_1_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold.* is .*, not .*from 0 to 1"):
        DecisionRule.of({"temperature": 1.0, "threshold": threshold, "empty": "none"})
