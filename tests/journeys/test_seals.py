"""Seals: a changed bit in anything that mmfeat keeps is found, or changes nothing of what is read."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers.older_projects import older_project, tried
from helpers.run_records import METRIC_NAMES, OF_HEADS, RECORD, logits

from mmfeat.common import verified
from mmfeat.common.errors import DataError, EncoderError, MmfeatError, RunError
from mmfeat.common.files import write_json
from mmfeat.common.lineage import Lineage
from mmfeat.common.remembered import recall, remember
from mmfeat.common.sealed_tensors import read_arrays, write_arrays
from mmfeat.common.seals import (
    check_seal,
    is_sealed_file,
    read_record,
    read_sealed,
    read_values,
    seal_folder,
    write_sealed,
)
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, Digests
from mmfeat.data.seen import load_seen, note_seen
from mmfeat.encoders.checkpoint import (
    LastEpoch,
    LinearProbe,
    copy_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from mmfeat.encoders.finetuning import resume_state as resuming
from mmfeat.project.project import Project
from mmfeat.runs.comparison_files import (
    ComparedEncoder,
    ComparisonFolder,
    ModelLogits,
    read_compared_encoder,
    read_logits,
    write_compared_encoder,
)
from mmfeat.runs.new_run import save_run
from mmfeat.runs.run import already_made, read_run
from mmfeat.selftraining.saved_rounds import kept_in
from mmfeat.store import EncoderSpec
from mmfeat.workflows.status import status

SPEC = EncoderSpec("image", "net", "w", {"size": 32}, "avg", {}).as_dict()
NOT_ONE_LINE = "\n"


@pytest.fixture(scope="module")
def old_made(tmp_path_factory) -> Path:
    """A project that version 0.1.0 has made; for tests that only read it."""
    return older_project("0.1.0", tmp_path_factory.mktemp("old"))


@pytest.fixture
def old_project(old_made, tmp_path) -> Path:
    return shutil.copytree(old_made, tmp_path / "project")


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


# One sealed thing of each kind: how it is made, which files it has, and what is read of it as values to compare.


def manifest(folder: Path) -> tuple[Path, Callable[[], Any]]:
    n, folder = 30, folder / "project"
    labels = (np.arange(n * 2).reshape(n, 2) % 2).astype(np.int8)
    ids, none = np.array([f"{i}.jpg" for i in range(n)], object), np.array([""] * n, object)
    split = np.array(["train"] * 20 + ["val"] * 10, object)
    Manifest(
        ids=ids, images=ids, captions=none, labels=labels, split=split, classes=("a", "b"), columns={"id": "name"}
    ).save(folder / "manifest.parquet")

    def read() -> Any:
        found = Manifest.load(folder / "manifest.parquet")
        arrays = (found.ids, found.images, found.captions, found.labels, found.split)
        return [a.tolist() for a in arrays], found.classes, found.columns

    return folder, read


def a_run(folder: Path) -> tuple[Path, Callable[[], Any]]:
    state = {f"seed{i}.w": torch.arange(6.0).reshape(2, 3) for i in range(2)}
    run = save_run(
        folder, "linear", {**RECORD, **OF_HEADS}, logits=logits(), learned=Lineage.of(["a"], ["b"]), state=state
    )

    def read() -> Any:
        found = read_run(run.folder)
        kept, learned, heads = found.logits(), found.learned(), found.state()
        arrays = (kept.ids, kept.input_keys, kept.known, kept.logits, kept.roles, learned.training, learned.selection)
        record = {key: value for key, value in found.record.items() if key != "files"}
        return record, [a.tolist() for a in arrays], {n: t.tolist() for n, t in heads.items()}

    return run.folder, read


def a_checkpoint(folder: Path) -> tuple[Path, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    output = LinearProbe(rng.normal(size=(2, 3)).astype(np.float32), np.zeros(2, np.float32), ("a", "b"))
    tensors = {"w": torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))}
    record = {"spec": SPEC, "table": {"model": "net"}, "fingerprint": "f", "best_epoch": 2, "seconds": 1.0}
    last = LastEpoch(SPEC, 3, output, tensors)
    made = save_checkpoint(
        folder, "image", record, output=output, tensors=tensors, learned=Lineage.of(["a"], ["b"]), last=last
    )

    def read() -> Any:
        found = []
        for one in (read_checkpoint(made.folder), read_checkpoint(made.folder / "last")):
            output, learned, tensors = one.output(), one.learned(), one.tensors()
            arrays = (output.weight, output.bias, learned.training, learned.selection, *tensors.values())
            record = {key: value for key, value in one.record.items() if key != "files"}
            found.append((record, one.complete, [a.tolist() for a in arrays], list(tensors)))
        return found

    return made.folder, read


def a_sweep(folder: Path) -> tuple[Path, Callable[[], Any]]:
    from mmfeat.runs.sweep import KeptFits

    head = {"figures": {k: METRIC_NAMES[k] for k in METRIC_NAMES if k[0] in "smml"}, "best_epoch": 1, "seconds": 0.5}
    write_sealed(folder / "0.json", {"format": 1, "heads": {"f": head, "g": {"error": "diverged"}}})

    def read() -> Any:
        kept = KeptFits(folder)
        return {fingerprint: kept[fingerprint] for fingerprint in kept} or None

    return folder, read


def a_comparison(folder: Path) -> tuple[Path, Callable[[], Any]]:
    numbers = np.arange(5, dtype=np.uint64)
    values = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    model = ModelLogits(logits=values, known=np.ones(5, bool), seconds=1.0, microseconds=2.0, head_mb=3.0)

    def opened() -> ComparisonFolder:
        return ComparisonFolder(folder / "comparisons", "heads", {"classes": ["a"]}, numbers=numbers, record={})

    comparison = opened()
    made = comparison.path
    comparison.keep("head.safetensors", "g", model)
    texts = dict.fromkeys(("typed", "label", "name", "model", "encoder_key", "measured", "device"), "x")
    record = ComparedEncoder(
        **texts,
        modality="image",
        width=3,
        size_mb=None,
        n_labelled=5,
        rate=2.0,
        fit_seconds=1.0,
        best_epoch=1,
        frozen=True,
    )
    write_compared_encoder(made / "encoder.json", record)

    def read() -> Any:
        found, one = comparison.kept("head.safetensors", "g"), read_compared_encoder(made / "encoder.json")
        if found is None or one is None or opened().path != made:
            return None
        return found.logits.tolist(), found.known.tolist(), found.seconds, found.microseconds, found.head_mb, one

    return made, read


def a_fit(folder: Path) -> tuple[Path, Callable[[], Any]]:
    file = folder / ".resume-image.safetensors"
    tensors = {"encoder": {"w": torch.arange(6.0)}, "optimizer": {"0.step": torch.tensor(3.0)}}
    resuming.keep_state(file, tensors, {"epoch": 2, "fingerprint": "f"})

    def read() -> Any:
        kept = resuming.kept_state(file, "f", torch.device("cpu"))
        return kept and ({g: {n: t.tolist() for n, t in part.items()} for g, part in kept[0].items()}, kept[1])

    return folder, read


def rounds(folder: Path) -> tuple[Path, Callable[[], Any]]:
    arrays = np.random.default_rng(0).normal(size=(2, 4, 3))
    kept_in(folder)(1, lambda: (arrays[0], arrays[1]))

    def again() -> Any:
        raise InterruptedError

    def read() -> Any:
        with contextlib.suppress(InterruptedError):
            return [a.tolist() for a in kept_in(folder)(1, again)]
        return None

    return folder, read


def caches(folder: Path) -> tuple[Path, Callable[[], Any]]:
    keys = np.random.default_rng(0).integers(0, 256, (4, 32)).astype(np.uint8)
    ids, places = np.array(list("abcd"), object), [bytes([i]) * 16 for i in range(4)]
    note_seen(folder / "seen-image.parquet", ids, keys, present=np.ones(4, bool))
    found = Digests.empty(4)
    found.rows[:, :32] = keys
    DigestMemory(folder / "digests.parquet").remember(places, found, b"state")
    remember(folder / "encoders.json", {"image": {"key": "k"}})

    def read() -> Any:
        seen, known = load_seen(folder / "seen-image.parquet", ids)
        digests = DigestMemory(folder / "digests.parquet").recall(places).keys
        found = recall(folder / "encoders.json")
        return (seen.tolist(), digests.tolist(), found) if known.all() and digests.any() and found else None

    return folder, read


KINDS = (manifest, a_run, a_checkpoint, a_sweep, a_comparison, a_fit, rounds, caches)
AGAIN = (a_sweep, a_comparison, a_fit, rounds, caches)  # what is damaged is made again


def check_flips(kind: Callable, folder: Path, trials: int, seed: int) -> None:
    """Flip one bit at a time: the values are the same, or one line names the file."""
    rng = random.Random(seed)
    root, read = kind(folder)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    whole = read()
    assert whole
    for _ in range(trials):
        file = rng.choice(files)
        data, bit = file.read_bytes(), rng.randrange(8 * file.stat().st_size)
        flip(file, bit)
        found, said = tried(read)
        again = kind in AGAIN and found is None and not said
        named = kind not in AGAIN and file.name in said and NOT_ONE_LINE not in said
        assert found == whole or again or named, (file, bit, said)
        file.write_bytes(data)
    shutil.rmtree(folder / "comparisons" / "heads-2", ignore_errors=True)
    assert read() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_or_changes_nothing(kind, tmp_path):
    check_flips(kind, tmp_path, 25, seed=0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("kind", KINDS)
def test_many_flipped_bits_are_found_or_change_nothing(kind, tmp_path, seed):
    check_flips(kind, tmp_path, 400, seed)


@pytest.mark.parametrize("kind", [manifest, a_run, a_checkpoint])
@pytest.mark.parametrize("damage", ["truncated", "empty", "absent", "a folder", "swapped"])
def test_a_file_that_is_truncated_missing_or_swapped_is_named(kind, damage, tmp_path):
    root, read = kind(tmp_path)
    other, _ = kind(tmp_path / "other")
    assert read()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        data = file.read_bytes()
        if damage == "truncated":
            file.write_bytes(data[:-7])
        elif damage == "empty":
            file.write_bytes(b"")
        elif damage == "swapped":
            change(other)
            file.write_bytes((other / file.relative_to(root)).read_bytes())
        else:
            file.unlink()
            if damage == "a folder":
                file.mkdir()
        if damage == "swapped" and kind is manifest:
            assert read()  # another manifest is whole as well
            continue
        with pytest.raises(MmfeatError) as caught:
            read()
        assert (file.name if kind is manifest else root.name) in str(caught.value)
        assert NOT_ONE_LINE not in str(caught.value)
        shutil.rmtree(file) if damage == "a folder" else None
        file.write_bytes(data)
    assert read()


def change(folder: Path) -> None:
    """Make a run or checkpoint another one, whose own files fit each other."""
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes() + b" ")
    for file in folder.rglob("*.h5"):
        with h5py.File(file, "r+") as opened:
            opened.attrs["another"] = 1
    for file in folder.rglob("*.json"):
        values = read_sealed(file)
        seal_folder(file.parent, file.name, {**values, "fingerprint": "another"}, list(values["files"]))


# The mechanism


def test_every_bit_of_a_sealed_record_counts(tmp_path):
    values = {"a": [2.5, None, "é"], "b": True}
    file = tmp_path / "record.json"
    seal_folder(tmp_path, "record.json", {"format": 1, **values})
    wanted = read_record(file, 1, {}, "Again")
    assert wanted == {"format": 1, **values, "files": {}}
    data = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 300):
        flip(file, bit)
        try:
            assert read_record(file, 1, {}, "Again") == wanted, bit  # a space became another
        except ValueError as error:
            said = str(error)
        else:
            said = f"{file}: damaged: . Again"
        assert said.startswith(f"{file}: damaged: ")
        assert said.endswith("Again")
        file.write_bytes(data)


def test_every_bit_of_a_sealed_file_counts(tmp_path):
    file = tmp_path / "a.safetensors"
    write_arrays(file, {"x": np.arange(4.0)}, {"k": "v"})
    arrays, metadata = read_arrays(file)
    assert arrays["x"].tolist() == [0, 1, 2, 3]
    assert metadata["k"] == "v"
    data = file.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(ValueError, match="seal"):
            check_seal(bytes(changed))
    assert check_seal(data)


def test_what_is_written_is_read_as_it_was_whatever_its_keys_and_values(tmp_path):
    values = {"b": {10: 1, 9: (1, 2)}, "a": 1e-320, "seconds": 3, "text": "\u2028 \x7f 🙂"}
    write_sealed(tmp_path / "a.json", values)
    assert read_sealed(tmp_path / "a.json") == json.loads(json.dumps(values))


def test_a_record_of_a_newer_version_says_so(tmp_path):
    seal_folder(tmp_path, "a.json", {"format": 7})
    with pytest.raises(ValueError, match=r"has format 7, this mmfeat reads up to 1. Update mmfeat"):
        read_record(tmp_path / "a.json", 1, {"kind": str}, "Again")


def test_files_are_hashed_once_for_each_state_they_have(tmp_path, monkeypatch):
    folder, read = a_run(tmp_path)
    read()
    for file in folder.iterdir():
        os.utime(file, ns=(10**9, 10**9))
    hashed = []
    digest = verified.digest_file
    monkeypatch.setattr(verified, "digest_file", lambda path: hashed.append(path.name) or digest(path))
    assert not read_run(folder).damage()
    assert sorted(hashed) == ["head.safetensors", "logits.h5"]
    read()
    assert not read_run(folder).damage()
    assert len(hashed) == 2


# Checkpoints that are copied


def test_a_copied_checkpoint_has_the_same_seal_and_a_damaged_one_is_not_copied(tmp_path):
    folder, _ = a_checkpoint(tmp_path)
    copied = copy_checkpoint(read_checkpoint(folder), "image", more={"selftrained": "image-1"})
    assert copied.record["files"] == read_checkpoint(folder).record["files"]
    again = read_checkpoint(copied.folder)
    assert again.record == copied.record
    assert again.record["selftrained"] == "image-1"
    assert again.complete
    assert read_checkpoint(copied.folder / "last").complete
    flip(folder / "encoder.safetensors", -1)
    assert not read_checkpoint(folder).complete
    with pytest.raises(EncoderError, match=r"encoder.safetensors: damaged: .*Run: mmfeat finetune|Remove the folder"):
        copy_checkpoint(read_checkpoint(folder), "image")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-1", "image-2"]


def test_a_checkpoint_made_before_seals_is_copied_sealed(tmp_path):
    folder, _ = a_checkpoint(tmp_path)
    record = read_sealed(folder / "checkpoint.json")
    write_json(folder / "checkpoint.json", {k: v for k, v in record.items() if k != "files"})
    old = read_checkpoint(folder)
    assert not old.sealed
    assert old.complete
    copied = read_checkpoint(copy_checkpoint(old, "image").folder)
    assert copied.sealed
    assert copied.record["files"].keys() == record["files"].keys()


def test_a_damaged_run_is_not_already_made(tmp_path):
    folder, _ = a_run(tmp_path)
    assert already_made(tmp_path, "f") is not None
    flip(folder / "head.safetensors", -1)
    assert already_made(tmp_path, "f") is None


# The manifest, while others replace it


def test_a_manifest_that_is_replaced_while_it_is_read_is_one_of_the_two(tmp_path):
    def made(n: int) -> Manifest:
        ids = np.array([f"{i * n}.jpg" for i in range(n)], object)
        return Manifest(
            ids=ids,
            images=ids,
            captions=ids,
            labels=np.zeros((n, 2), np.int8),
            split=np.array(["train"] * n, object),
            classes=("a", "b"),
        )

    file, both, done = tmp_path / "manifest.parquet", [made(40), made(700)], threading.Event()
    both[0].save(file)

    def replace() -> None:
        number = 0
        while not done.is_set():
            number += 1
            both[number % 2].save(file)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(150):
            found = Manifest.load(file)
            assert found.ids.tolist() in [one.ids.tolist() for one in both]
    finally:
        done.set()
        thread.join()


def test_a_manifest_is_opened_once(tmp_path):
    folder, read = manifest(tmp_path)
    whole, file = read(), folder / "manifest.parquet"
    data = file.read_bytes()
    file.unlink()
    os.mkfifo(file)  # it gives its content once
    writer = threading.Thread(target=file.write_bytes, args=(data,))
    writer.start()
    assert read() == whole
    writer.join()


def test_a_manifest_without_a_seal_that_holds_other_things_is_damaged(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "manifest.parquet"
    texts = {name: ["a", "b"] for name in ("id", "image", "caption")}
    good = {**texts, "split": ["train", "val"], "labels": pa.array([[1, 0], [0, -1]], pa.list_(pa.int8(), 2))}
    metadata = {"mmfeat_format": "1", "classes": '["x", "y"]', "columns": "{}"}
    bad = [
        ({"split": ["train", "valid"]}, {}),
        ({"id": [1, 2]}, {}),
        ({"caption": ["a", None]}, {}),
        ({"labels": pa.array([[5, 0], [0, 1]], pa.list_(pa.int8(), 2))}, {}),
        ({}, {"classes": "5"}),
        ({}, {"classes": '["x"]'}),
        ({}, {"columns": "[]"}),
        ({}, {"mmfeat_format": "x"}),
    ]
    for columns, said in [({}, {}), *bad]:
        pq.write_table(pa.table({**good, **columns}).replace_schema_metadata({**metadata, **said}), file)
        if not columns and not said:
            assert Manifest.load(file).n_samples == 2
            assert not is_sealed_file(file)
            continue
        with pytest.raises(DataError, match=r"manifest.parquet: damaged: .*Remove it and run: mmfeat init") as caught:
            Manifest.load(file)
        assert NOT_ONE_LINE not in str(caught.value)


# What version 0.1.0 has made


def test_what_has_no_seal_is_read_and_status_says_so_in_one_line(old_project):
    found = status(Project(old_project))
    assert not found.failures
    assert not found.damaged
    assert found.unsealed == (
        "21 runs, 10 checkpoints and the manifest were written by an older mmfeat without seals, so a changed bit in them may go unnoticed"
    )
    assert all(one.missing == one.stale == 0 for one in found.encoders)


def test_a_damaged_run_or_checkpoint_is_a_line_of_status(old_project):
    runs, checkpoints = old_project / "runs", old_project / "checkpoints"
    (runs / "linear-1" / "head.safetensors").unlink()
    (runs / "linear-2" / "run.json").write_text("{}")
    (runs / "linear-3" / "run.json").unlink()
    (checkpoints / "image-1" / "rows.safetensors").unlink()
    lines = status(Project(old_project)).damaged
    for part in ("linear-1/head.safetensors", "linear-2/run.json", "linear-3/run.json", "image-1/rows.safetensors"):
        assert sum(part.replace("linear-3/run.json", "linear-3") in line for line in lines) == 1, part
    assert len(lines) == 4


def test_a_round_that_was_kept_before_seals_counts_and_one_of_another_name_does_not(tmp_path):
    def never() -> Any:
        raise AssertionError

    np.savez(tmp_path / "round-0.npz", fused=np.ones(2), mlp=np.zeros(2))
    assert kept_in(tmp_path)(0, never)[0].tolist() == [1, 1]
    kept_in(tmp_path)(1, lambda: (np.ones(3), np.ones(3)))
    assert kept_in(tmp_path)(1, never)[0].tolist() == [1, 1, 1]
    (tmp_path / "round-1.safetensors").rename(tmp_path / "round-2.safetensors")
    assert kept_in(tmp_path)(2, lambda: (np.zeros(3), np.zeros(3)))[0].tolist() == [0, 0, 0]


def test_parts_and_states_that_were_kept_before_seals_count(tmp_path, old_made):
    from safetensors.torch import save_file

    file = tmp_path / "state.safetensors"
    save_file({"encoder/w": torch.ones(2)}, file, {"state": json.dumps({"epoch": 1, "fingerprint": "f"})})
    assert resuming.kept_state(file, "f", torch.device("cpu"))[1] == {"epoch": 1}
    part = old_made / "comparisons" / "heads-1" / "head-linear.safetensors"
    arrays, metadata = read_arrays(part)
    about = json.loads(metadata["mmfeat"])
    assert read_logits(part, arrays["ids"], about["fingerprint"]) is not None
    assert not is_sealed_file(part)


def test_a_run_whose_seal_is_cut_out_is_damaged(tmp_path):
    folder, _ = a_run(tmp_path)
    values, sealed = read_values(folder / "run.json")
    assert sealed
    write_json(folder / "run.json", values)
    with pytest.raises(RunError, match=r"run.json: damaged: its seal is missing"):
        read_run(folder)
