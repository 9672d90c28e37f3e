"""Runs and checkpoints come back as they were kept, and say so in one line where they cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.run_records import OF_HEADS, RECORD, logits

from mmfeat.common.errors import EncoderError, RunError
from mmfeat.common.lineage import NO_LINEAGE, Lineage
from mmfeat.common.seals import write_sealed
from mmfeat.encoders.checkpoint import LinearProbe, checkpoints_of, read_checkpoint, save_checkpoint
from mmfeat.runs.new_run import save_run
from mmfeat.runs.run import all_runs, already_made, damaged_runs, read_run
from mmfeat.runs.run_names import Naming
from mmfeat.store import EncoderSpec


def test_a_run_comes_back(tmp_path):
    state = {"seed0.w": torch.arange(6.0).reshape(2, 3).T}  # not contiguous
    saved = save_run(tmp_path, "linear", RECORD, logits=logits(), learned=NO_LINEAGE, state=state)
    run = read_run(tmp_path / saved.name)
    assert {key: run.record[key] for key in RECORD} == RECORD
    assert run.record.keys() - RECORD.keys() == {"format", "files"}
    assert run.classes == ("a", "b")
    assert run.size_mb == 3.0
    assert torch.equal(run.state()["seed0.w"], state["seed0.w"])
    kept, given = run.logits(), logits()
    for name in ("ids", "input_keys", "known", "logits", "roles"):
        assert np.array_equal(getattr(kept, name), getattr(given, name))


def test_runs_are_listed_oldest_first_and_nothing_unfinished_among_them(tmp_path):
    assert all_runs(tmp_path / "nowhere") == []
    for number, year in enumerate((2027, 2025, 2026)):
        record = {**RECORD, "created": f"{year}-01-01", "fingerprint": str(number)}
        save_run(tmp_path, "linear", record, logits=logits(), learned=NO_LINEAGE)
    older = read_run(tmp_path / "linear-3")  # of an earlier version, which made twins
    write_sealed(older.folder / "run.json", {**older.record, "fingerprint": "0"})
    (tmp_path / ".tmp-1").mkdir()
    (tmp_path / "half-1").mkdir()
    assert [run.name for run in all_runs(tmp_path)] == ["linear-2", "linear-3", "linear-1"]
    assert already_made(tmp_path, "0").name == "linear-1"
    assert already_made(tmp_path, "3") is None


DAMAGE = {
    "": "damaged",
    "[]": "damaged",
    "{": "damaged",
    '{"format": 1}': "damaged",
    '{"format": "x"}': "damaged",
    "[" * 100_000: "damaged",
}


@pytest.mark.parametrize(("text", "says"), [*DAMAGE.items(), (json.dumps({**RECORD, "format": 99}), "reads up to 1")])
def test_a_damaged_or_newer_run_is_one_line(tmp_path, text, says):
    run = save_run(tmp_path, "linear", RECORD, logits=logits(), learned=NO_LINEAGE)
    (run.folder / "run.json").write_text(text)
    with pytest.raises(RunError, match=says) as error:
        read_run(run.folder)
    assert "run.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["head.safetensors", "logits.h5"])
@pytest.mark.parametrize("data", [None, b"", b"no such format", b"\xff" * 5000])
def test_damaged_arrays_of_a_run_are_one_line(tmp_path, name, data):
    run = save_run(tmp_path, "linear", RECORD, logits=logits(), learned=NO_LINEAGE, state={"seed0.w": torch.zeros(2)})
    (run.folder / name).unlink()
    if data is not None:
        (run.folder / name).write_bytes(data)
    with pytest.raises(RunError, match=rf"{name}: cannot be read.*Make the run again"):
        run.state() if name.startswith("head") else run.logits()


def test_checkpoints_come_back_newest_first(tmp_path):
    output = LinearProbe(np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([0, 1]), ("a", "b"))
    spec = EncoderSpec("image", "net", "0" * 64, {}, "avg", {}).as_dict()
    record = {"spec": spec, "table": {"model": "net"}, "fingerprint": "f", "best_epoch": 1, "seconds": 1.0}
    for _ in range(11):
        save_checkpoint(tmp_path, "image", record, output=output, tensors=None)
    save_checkpoint(tmp_path, "image-b", record, output=output, tensors={"w": torch.zeros(1)})
    found = checkpoints_of(tmp_path, "image")
    assert [c.name for c in found] == [f"image-{n}" for n in range(11, 0, -1)]
    assert found[0].frozen
    assert found[0].output().key == output.key
    assert np.array_equal(found[0].output().logits(np.float32([[1, 0, 0]])), np.float32([[1, 5]]))
    assert not checkpoints_of(tmp_path, "image-b")[0].frozen


@pytest.mark.parametrize(("text", "says"), [*DAMAGE.items(), (None, "no checkpoint there")])
def test_a_damaged_checkpoint_is_one_line(tmp_path, text, says):
    output = LinearProbe(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), ("a", "b"))
    folder = save_checkpoint(tmp_path, "image", {"spec": {}, "fingerprint": "f"}, output=output, tensors=None).folder
    (folder / "checkpoint.json").unlink()
    if text is not None:
        (folder / "checkpoint.json").write_text(text)
    with pytest.raises(EncoderError, match=says) as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_what_was_learned_from_comes_back_and_adds_up(tmp_path):
    one, two = Lineage.of(["a", "b", "b"], ["v"]), Lineage.of(["c"], ["v", "w"])
    learned = save_run(tmp_path, "linear", RECORD, logits=logits(), learned=one | two).learned()
    trained, chosen = learned.among(["c", "x", "a", "v", "w"])
    assert trained.tolist() == [True, False, True, False, False]
    assert chosen.tolist() == [False, False, False, True, True]
    assert len(learned.training) == 3
    assert not (one | NO_LINEAGE).among([])[0].any()


def test_a_checkpoint_keeps_the_rows_it_was_fitted_on_or_says_that_it_did_not(tmp_path):
    output = LinearProbe(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), ("a", "b"))
    record = {"spec": {}, "fingerprint": "f"}
    known = save_checkpoint(tmp_path, "image", record, output=output, tensors=None, learned=Lineage.of(["a"], ["v"]))
    assert known.complete
    assert known.learned().among(["a", "v"])[0].tolist() == [True, False]
    unknown = save_checkpoint(tmp_path, "image", record, output=output, tensors=None)
    assert not unknown.complete
    with pytest.raises(EncoderError, match=r"rows.safetensors: .*unknown. Run: mmfeat finetune image --freeze"):
        unknown.learned()


@pytest.mark.parametrize("name", ["head.safetensors", "logits.h5"])
@pytest.mark.parametrize("data", [None, b"", b"\xff" * 5000])
def test_a_run_that_is_not_whole_is_not_already_made(tmp_path, name, data):
    state = {"seed0.w": torch.zeros(2)}
    run = save_run(tmp_path, "linear", {**RECORD, **OF_HEADS}, logits=logits(), learned=NO_LINEAGE, state=state)
    assert not run.damage()
    assert already_made(tmp_path, "f").name == run.name
    (run.folder / name).unlink()
    if data is not None:
        (run.folder / name).write_bytes(data)
    assert f"{name}: cannot be read" in run.damage()
    assert "\n" not in run.damage()
    assert already_made(tmp_path, "f") is None


def test_a_damaged_record_is_listed_with_its_reason_beside_the_others(tmp_path):
    for number in range(3):
        save_run(tmp_path, "linear", {**RECORD, "fingerprint": str(number)}, logits=logits(), learned=NO_LINEAGE)
    (tmp_path / "linear-2" / "run.json").write_text("[]")
    assert [run.name for run in all_runs(tmp_path)] == ["linear-1", "linear-3"]
    assert "damaged" in damaged_runs(tmp_path)["linear-2"]
    assert already_made(tmp_path, "2").name == "linear-3"


def test_of_two_runs_at_once_with_one_fingerprint_one_is_kept(tmp_path):
    made = [save_run(tmp_path, "linear", RECORD, logits=logits(), learned=NO_LINEAGE) for _ in range(2)]
    assert [(run.name, run.is_new) for run in made] == [("linear-1", True), ("linear-1", False)]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["linear-1"]  # nothing staged is left
    named = save_run(tmp_path, "linear", RECORD, logits=logits(), learned=NO_LINEAGE, naming=Naming(name="mine"))
    assert (named.name, named.is_new) == ("mine", True)
    for run in made[0], named:
        (run.folder / "logits.h5").write_bytes(b"")
    again = save_run(tmp_path, "linear", RECORD, logits=logits(), learned=NO_LINEAGE)
    assert (again.name, again.is_new) == ("linear-2", True)  # a damaged run is none
    assert not read_run(again.folder).is_new
