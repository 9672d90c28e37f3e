"""Extraction in several processes: the store, the counts and the errors are those of one process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.command_line import run_cli
from helpers.edits import edited

import mmfeat
from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.machine import usable_cores
from mmfeat.common.workers import WorkerFailed
from mmfeat.extraction import in_shard
from mmfeat.project import device_encoding
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.workflows.extract import extract as extract_command

pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="one core")
COUNTS = ("cached", "encoded", "repeated", "unreadable", "left", "absent", "tokens", "unread")


def counts(result) -> dict[str, tuple]:
    return {one.name: tuple(getattr(one, name) for name in COUNTS) for one in result.encoders}


def features(project: Project) -> dict[str, np.ndarray]:
    table = project.feature_table(list(project.config.encoder), need=np.zeros(0, np.int64))
    return {name: np.asarray(values[:], np.float32) for name, values in table.embeddings.items()}


@pytest.fixture
def with_odd_rows(project_folder):
    """A project with two undecodable images, and with tokens; its images are in a folder of its own."""
    project = Project(project_folder)
    source = project.config.path(project.config.data.source)
    with zipfile.ZipFile(source / "images.zip") as archive:
        archive.extractall(project_folder / "photos")
    broken = sorted((project_folder / "photos").rglob("*.jpg"))[:2]
    for number, path in enumerate(broken):
        path.write_bytes(b"no image %d" % number)
    an_hour_ago = time.time() - 3600
    for path in (project_folder / "photos").rglob("*"):
        os.utime(path, (an_hour_ago, an_hour_ago))
    shutil.rmtree(project_folder / ".mmfeat")
    project = edited(project, "[data]", '[data]\nimages = "photos"')
    return edited(project, "size = 32", "size = 32\ntokens = 2")


def test_two_processes_fill_the_store_as_one_does(with_odd_rows, tmp_path):
    one = with_odd_rows.derived(settings={"store.path": str(tmp_path / "one")})
    alone = extract(one)
    several = extract_command(with_odd_rows, devices="cpu:2")
    assert counts(several) == counts(alone)
    assert several.reasons == alone.reasons
    assert len(several.reasons["image"]) == 2
    wanted, found = features(one), features(Project(with_odd_rows.root))
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-3)
    again = extract_command(Project(with_odd_rows.root), devices="cpu:2")
    assert all(one.encoded == one.tokens == 0 for one in again.encoders)


def test_digests_are_computed_before_and_each_process_has_its_part(project, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def running(module, workers) -> Iterator:
        seen.extend(workers)
        seen.append((project.memory / "digests.parquet").is_file() and (project.memory / "encoders.json").is_file())
        yield iter([])

    (project.memory / "digests.parquet").unlink()
    project = Project(project.root, {"metric": "loss"})
    monkeypatch.setattr(device_encoding, "running", running)
    keys = project.row_keys("image").keys
    for shard in (None, (2, 3)):
        extract_command(project, ["text"], devices="cpu:2", shard=shard)  # what no process has encoded is left
        *workers, remembered = seen
        assert remembered
        requests = [worker.request for worker in workers]
        assert [request["overrides"] for request in requests] == [{"metric": "loss", "device": "cpu"}] * 2
        parts = [in_shard(keys, tuple(request["shard"])) for request in requests]
        assert np.array_equal(parts[0] ^ parts[1], in_shard(keys, shard))
        assert not set(requests[0]["cores"]) & set(requests[1]["cores"])
        seen.clear()


def test_an_error_of_one_process_is_the_error_of_the_command(with_odd_rows):
    with pytest.raises(
        DataError, match=r"^encoder 'image', row .*To record the reason and continue: --on-error record$"
    ):
        extract_command(with_odd_rows, devices="cpu:2", on_error="stop")
    result = extract_command(Project(with_odd_rows.root), devices="cpu:2")  # it goes on with what is left
    assert result.encoders[0].unreadable == 2


def test_a_process_that_dies_is_named(project, tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(device_encoding, "_WORKER", "dying")
    with pytest.raises(WorkerFailed) as error:
        extract_command(project, devices="cpu:2")
    assert re.fullmatch(
        r"process [12] of 2 \(cpu\): the process was ended by SIGKILL \(out of memory\?\)\. "
        r"What was encoded is kept; to continue, type the command again",
        str(error.value),
    )


def test_an_interruption_keeps_what_was_encoded(project, monkeypatch):
    class Interrupting:
        def advance(self, n: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device_encoding, "progress", lambda *_: contextlib.nullcontext(Interrupting()))
        with pytest.raises(KeyboardInterrupt):
            extract_command(project, ["image"], devices="cpu:2")
    kept = Project(project.root).store.encoder(project.identity("image").spec).n_rows
    assert kept >= 16  # the batch whose progress was reported
    result = extract_command(Project(project.root), ["image"], devices="cpu:2").encoders[0]
    assert (result.cached, result.encoded) == (kept, 80 - kept)


def test_one_device_is_no_process_more(project, monkeypatch):
    monkeypatch.setattr(device_encoding, "running", None)
    result = extract_command(project, devices="cpu:1")
    assert result.encoders[0].encoded


def test_arguments_that_contradict_one_another_are_refused(project_folder):
    project = mmfeat.Project(project_folder, progress=False)
    with pytest.raises(ConfigError, match="devices cannot be used with device"):
        project.extract(devices="cpu:2", device="cpu")
    with pytest.raises(ConfigError, match="devices cannot be used with tune"):
        project.extract(devices="cpu:2", tune=True)
    for words in (["--tune"], ["--device", "cpu"], ["--dry-run"]):
        assert run_cli("extract", "--devices", "cpu:2", *words, cwd=project_folder, check=False).returncode == 2
