"""Whatever writes, and however it fails: one error that names the file, nothing half-written, what was there stays."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import COMMAND

from mmfeat.common.errors import MmfeatError
from mmfeat.common.files import (
    TEMPORARY,
    atomic_path,
    publish_folder,
    staging_folder,
    temporary_beside,
    write_atomic,
    write_json,
)
from mmfeat.common.lineage import NO_LINEAGE
from mmfeat.common.unwritable import UnwritableFile, naming, refusal
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import DigestMemory, Digests
from mmfeat.data.seen import note_seen
from mmfeat.encoders.checkpoint import Checkpoint, LinearProbe, copy_checkpoint, save_checkpoint
from mmfeat.encoders.finetuning.resume_state import keep_state
from mmfeat.report.plots import plot_learning
from mmfeat.report.prediction_files import prediction_bytes
from mmfeat.runs.comparison_files import ModelLogits, write_logits
from mmfeat.runs.new_run import save_run
from mmfeat.runs.run import RunLogits
from mmfeat.selftraining.saved_rounds import kept_in
from mmfeat.store.feature_table import FeatureTable
from mmfeat.store.table_exports import FORMATS, export_table

N, K = 4000, 8
IDS = np.array([f"row-{i}" for i in range(N)], dtype=object)
TEXTS = IDS.copy()
CLASSES = tuple(f"class {k}" for k in range(K))
VALUES = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
KEYS = np.random.default_rng(1).integers(0, 256, (N, 32), dtype=np.uint8)
LIMIT = 3000


@contextlib.contextmanager
def small_files(n_bytes: int = LIMIT) -> Iterator[None]:
    """No file may grow beyond so many bytes, whoever writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def table() -> FeatureTable:
    split = np.full(N, "train", dtype=object)
    labels, present = np.ones((N, K), np.int8), np.ones(N, dtype=bool)
    return FeatureTable(
        ids=IDS,
        embeddings={"image": VALUES},
        logits={},
        tokens={},
        token_lengths={},
        present={"image": present},
        row_keys={"image": KEYS},
        labels=labels,
        split=split,
        classes=CLASSES,
    )


def _digests() -> Digests:
    found = Digests.empty(N)
    found.rows[:, :32] = KEYS
    return found


def _manifest(folder: Path) -> None:
    labels = np.zeros((N, K), np.int8)
    Manifest(
        ids=IDS,
        images=TEXTS,
        captions=TEXTS,
        labels=labels,
        split=np.full(N, "train", dtype=object),
        classes=CLASSES,
        columns={},
        groups=None,
    ).save(folder / "manifest.parquet")


def _run(folder: Path) -> None:
    logits = RunLogits(
        ids=IDS, input_keys=KEYS, known=np.ones(N, dtype=bool), logits=VALUES, roles=np.zeros(N, np.uint8)
    )
    save_run(
        folder / "runs", "linear", {"classes": list(CLASSES), "fingerprint": "f"}, logits=logits, learned=NO_LINEAGE
    )


def _head(folder: Path) -> None:
    import torch

    logits = RunLogits(
        ids=IDS[:2],
        input_keys=KEYS[:2],
        known=np.ones(2, dtype=bool),
        logits=VALUES[:2],
        roles=np.zeros(2, np.uint8),
    )
    save_run(
        folder / "runs",
        "linear",
        {"classes": list(CLASSES), "fingerprint": "f"},
        logits=logits,
        learned=NO_LINEAGE,
        state={"weight": torch.zeros(N)},
    )


def _checkpoint(folder: Path) -> Checkpoint:
    output = LinearProbe(VALUES.T.copy(), np.zeros(K, np.float32), CLASSES)
    return save_checkpoint(folder / "checkpoints", "image", {}, output=output, tensors=None, learned=NO_LINEAGE)


def _state(folder: Path) -> None:
    import torch

    keep_state(folder / "resume.safetensors", {"model": {"weight": torch.zeros(N)}}, {})


def _part(folder: Path) -> None:
    numbers = KEYS[:, :8].copy().view(np.uint64)[:, 0]
    model = ModelLogits(logits=VALUES[None], known=VALUES[:, 0] > 0, seconds=1.0, microseconds=1.0, head_mb=1.0)
    write_logits(folder / "head.safetensors", model, numbers=numbers, fingerprint="fingerprint")


def _predictions(folder: Path, form: str) -> None:
    decided = (VALUES > 0).astype(np.int8)
    data = prediction_bytes(form, IDS.tolist(), VALUES, predicted=decided, classes=CLASSES)
    write_atomic(folder / f"predictions.{form}", data)


def _plot(folder: Path) -> None:
    figures = {"train_loss": 1.0, "val_loss": 1.0, "val_map": 0.1, "val_samples_f1": 0.1, "val_macro_f1": 0.1}
    plot_learning(folder / "curve.png", "curve", [{"epoch": 1, **figures}], 1)


def _export(folder: Path, form: str) -> None:
    export_table(table(), folder / "out", form, advance=lambda n: None)


WRITERS = {
    "bytes": lambda folder: write_atomic(folder / "a.txt", b"x" * 10_000),
    "json": lambda folder: write_json(folder / "a.json", list(range(10_000))),
    "manifest": _manifest,
    "digests": lambda folder: DigestMemory(folder / "digests.parquet").remember([b"p" * 16] * N, _digests()),
    "seen": lambda folder: note_seen(folder / "seen.parquet", IDS, KEYS, present=np.ones(N, dtype=bool)),
    "run": _run,
    "head": _head,
    "checkpoint": _checkpoint,
    "state": _state,
    "part": _part,
    "rounds": lambda folder: kept_in(folder)(1, lambda: (VALUES, VALUES)),
    "plot": _plot,
    **{f"predictions {form}": functools.partial(_predictions, form=form) for form in ("csv", "jsonl", "parquet")},
    **{f"export {form}": functools.partial(_export, form=form) for form in FORMATS},
}
REMEMBERED = ("digests", "seen")  # shortcuts: a disk that refuses them need not be told


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_on_a_disk_that_takes_a_part(tmp_path, writer):
    (tmp_path / "first").mkdir()
    WRITERS[writer](tmp_path / "first")  # it is right otherwise, and writes more than may be written now
    assert max(p.stat().st_size for p in (tmp_path / "first").rglob("*") if p.is_file()) > LIMIT
    folder = tmp_path / "second"
    folder.mkdir()
    if writer in REMEMBERED:
        with small_files(), contextlib.suppress(UnwritableFile):
            WRITERS[writer](folder)
        assert files(folder) == []
        return
    with small_files(), pytest.raises(MmfeatError) as caught:
        WRITERS[writer](folder)
    assert "cannot be written" in str(caught.value)
    assert str(folder) in str(caught.value)
    assert TEMPORARY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(folder) == []
    WRITERS[writer](folder)
    assert files(folder) == files(tmp_path / "first")


def test_what_was_there_stays(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, [1, 2])
    with small_files(100), pytest.raises(UnwritableFile):
        write_json(file, list(range(1000)))
    assert json.loads(file.read_text()) == [1, 2]
    assert files(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("Unable to create dataset (file write failed: time = now, errno = 28, error message = 'x')", errno.ENOSPC),
        ("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device", errno.ENOSPC),
        ("16 requested and 8 written", errno.ENOSPC),
        ("I/O error: Read-only file system (os error 30)", errno.EROFS),
        ("Error while deserializing header: HeaderTooLarge", None),
        ("No such file (os error 2)", None),
    ],
)
def test_how_libraries_say_it(message, number):
    assert refusal(RuntimeError(message)) == number


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("call", ["replace", "rename", "mkdir", "fsync", "open"])
def test_every_call_that_is_refused_names_the_file_that_was_to_be(tmp_path, monkeypatch, call, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), *([str(arguments[0])] if call != "fsync" else []))

    monkeypatch.setattr("builtins.open" if call == "open" else f"os.{call}", refuse)
    if call == "open":
        monkeypatch.setattr("io.open", refuse)
    write = _staged if call in ("mkdir", "rename") else (lambda folder: write_atomic(folder / "runs", "x"))
    with pytest.raises(UnwritableFile) as caught:
        write(tmp_path)
    assert caught.value.errno == number
    assert str(caught.value).startswith(f"{tmp_path / 'runs'}")
    assert TEMPORARY not in str(caught.value)
    monkeypatch.undo()
    assert files(tmp_path) == []


def _staged(folder: Path) -> None:
    with staging_folder(folder / "runs") as staged:
        publish_folder(staged, folder / "runs", "linear")


def test_what_is_read_meanwhile_keeps_its_own_name(tmp_path):
    other = PermissionError(errno.EACCES, "no leave", "/elsewhere/source.jpg")
    with pytest.raises(PermissionError, match=r"source\.jpg"), atomic_path(tmp_path / "a"):
        raise other
    with pytest.raises(KeyError), naming(tmp_path / "a"):
        raise KeyError("x")
    assert files(tmp_path) == []


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written(tmp_path):
    left = temporary_beside(tmp_path / "a.json")
    gone = tmp_path / left.name.replace(f"-{os.getpid()}-", "-99999999-")
    gone.write_text("half")
    other = tmp_path / gone.name.replace("a.json", "b.json")
    other.write_text("half")
    left.write_text("under way")
    write_json(tmp_path / "a.json", 1)
    assert files(tmp_path) == sorted([left.name, other.name, "a.json"])


@pytest.mark.parametrize("sweep", [True, False])
def test_what_a_killed_process_left_beside_a_staged_folder_goes(tmp_path, sweep):
    gone = temporary_beside(tmp_path / "x").name.replace(f"-{os.getpid()}-", "-99999999-")
    for folder in (tmp_path / gone, tmp_path / "below" / gone):
        folder.mkdir(parents=True)
    with staging_folder(tmp_path, sweep=sweep):
        assert not (tmp_path / gone).exists()
        assert (tmp_path / "below" / gone).exists() != sweep


def test_a_checkpoint_is_copied_whole_or_not_at_all(tmp_path):
    checkpoint = _checkpoint(tmp_path)
    with small_files(), pytest.raises(UnwritableFile, match="checkpoints: cannot be written"):
        copy_checkpoint(checkpoint, "image")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["image-1"]


def test_the_command_line_names_the_file(tmp_path, capsys, monkeypatch):
    from mmfeat import cli

    def fail(**options):
        (tmp_path / "some.txt").read_text()

    def broken(self, *arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cli.group, "main", fail)
    monkeypatch.setattr("io.open", broken)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"Error: {tmp_path / 'some.txt'}: Input/output error\n"


def test_a_full_disk_behind_standard_output_is_one_line(tmp_path):
    import subprocess

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = [COMMAND, "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "Error: standard output: No space left on device\n"


def test_files_for_tensorboard_that_are_refused_stop_no_fine_tuning(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    from mmfeat.encoders.finetuning.logbook import Logbook

    with small_files(50):
        book = Logbook(tmp_path / "logs")
        for step in range(40):
            book.write(step, {"train/loss": 1.0})
        book.close()
    assert capsys.readouterr().err.count("The fine-tuning continues without TensorBoard files") == 1
