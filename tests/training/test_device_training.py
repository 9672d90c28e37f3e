"""Fine-tuning in several processes: the result of one process to rounding, and one line and a valid state for every fault."""

from __future__ import annotations

import contextlib
import re
import shutil

import numpy as np
import pytest

import mmfeat
from mmfeat.common.errors import ConfigError, EncoderError, MmfeatError
from mmfeat.common.machine import usable_cores
from mmfeat.common.workers import WorkerFailed
from mmfeat.extraction.device_shares import DeviceShare
from mmfeat.project.project import Project
from mmfeat.training import device_training
from mmfeat.training.device_training import check_batches
from mmfeat.training.encoder_training import resume_file_of
from mmfeat.workflows.finetune import FinetunedEncoder, finetune

two_cores = pytest.mark.skipif(usable_cores() < 2, reason="one core")
SETTINGS = {"finetune.image.epochs": "3", "finetune.image.ema": "0.9", "metric": "loss"}
FAULTY = """
import os, signal, sys
from mmfeat.common.unwritable import UnwritableFile
from mmfeat.encoders.finetuning import validated_epochs as module
from mmfeat.training import fit_worker

module.KEEP_SECONDS = 0.0
step, keep = module.EncoderFit._step, module.keep_state

def faulty_step(self, batch, number):
    loss = step(self, batch, number)
    if (self.state.epoch, self.state.step) == (1, 1):
        if FAULT == "dies" and not self.processes.first:
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "diverges":
            return loss * float("nan")
    return loss

def refused(file, tensors, record):
    if FAULT == "disk" and (record["epoch"], record["step"]) == (1, 1):
        raise UnwritableFile(28, file)
    keep(file, tensors, record)

module.EncoderFit._step, module.keep_state = faulty_step, refused
fit_worker.main()
"""


def opened(project: Project, **more: str) -> Project:
    return Project(project.root, SETTINGS | more)


def losses(result: FinetunedEncoder) -> list[list[float]]:
    return [[row.get("train_loss", 0.0), row["val_loss"]] for row in result.checkpoint.record["history"]]


def tuned(project: Project, devices: str | None = None, **more: str) -> FinetunedEncoder:
    (result,) = finetune(opened(project, **more), ["image"], devices=devices).encoders
    assert result.made
    assert not resume_file_of(project, "image").exists()
    return result


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A function that gives the processes a fault in step 2 of epoch 2."""

    def make(fault: str) -> None:
        (tmp_path / "faulty_fit.py").write_text(f"FAULT = {fault!r}\n{FAULTY}")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(device_training, "_WORKER", "faulty_fit")

    return make


@two_cores
@pytest.mark.slow
@pytest.mark.parametrize("layers", ["all", "last 2"])
def test_two_processes_make_the_checkpoint_of_one(project, layers, capsys):
    """Whole networks from random weights, and cached layers from a fitted probe."""
    more = {"finetune.image.layers": layers, "finetune.image.head_first": str(layers != "all").lower()}
    alone = tuned(project, **more)
    one = alone.checkpoint.tensors()
    shutil.rmtree(project.checkpoints)
    capsys.readouterr()
    several = tuned(project, "cpu:2", **more)
    said = capsys.readouterr().err
    assert "image: fine-tuning test_efficientnet on 2 devices, about" in said
    assert len(re.findall(r"^epoch \d: loss", said, re.MULTILINE)) == 3
    assert len(losses(several)) == (3 if layers == "all" else 4)
    np.testing.assert_allclose(losses(several), losses(alone), atol=1e-5)
    other = several.checkpoint.tensors()
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        np.testing.assert_allclose(other[key], tensor, atol=1e-3, err_msg=key)
    again = finetune(opened(project, **more), ["image"], devices="cpu:2").encoders[0]
    assert not again.made


@two_cores
@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_one_process_continues(project, faulty):
    straight = losses(tuned(project))
    shutil.rmtree(project.checkpoints)
    faulty("dies")
    with pytest.raises(WorkerFailed) as error:
        tuned(project, "cpu:2")
    assert str(error.value) == (
        "process 2 of 2 (cpu): the process was ended by SIGKILL (out of memory?). "
        "To continue from the last saved state, type the command again"
    )
    assert resume_file_of(project, "image").exists()
    np.testing.assert_allclose(losses(tuned(project)), straight, atol=1e-5)


@two_cores
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_state_before_is_continued(project, faulty):
    faulty("disk")
    with pytest.raises(MmfeatError, match=r"resume-image.*: cannot be written: No space left"):
        tuned(project, "cpu:2")
    faulty("none")
    resumed = tuned(project, "cpu:2")
    shutil.rmtree(project.checkpoints)
    np.testing.assert_allclose(losses(resumed), losses(tuned(project)), atol=1e-5)


@two_cores
@pytest.mark.slow
def test_interrupted_it_ends_with_the_same_bytes(project, faulty, monkeypatch):
    def tensors() -> bytes:
        return (tuned(project, "cpu:2").checkpoint.folder / "encoder.safetensors").read_bytes()

    class Interrupting:
        done = 0

        def advance(self, n: int = 1, note: str = "") -> None:
            self.done += n
            if self.done > 64:
                raise KeyboardInterrupt

    straight = tensors()
    shutil.rmtree(project.checkpoints)
    faulty("none")  # the state is saved at every step
    with monkeypatch.context() as patch:
        patch.setattr(device_training, "progress", lambda *_: contextlib.nullcontext(Interrupting()))
        with pytest.raises(KeyboardInterrupt):
            tensors()
    assert resume_file_of(project, "image").exists()
    assert tensors() == straight


@two_cores
@pytest.mark.slow
def test_a_loss_that_is_no_number_keeps_the_best_epoch_before(project, faulty):
    faulty("diverges")
    with pytest.raises(
        EncoderError, match=r"encoder.image: epoch 2, step 2: the loss is nan. checkpoints/image-1 holds"
    ):
        tuned(project, "cpu:2")
    assert not resume_file_of(project, "image").exists()


@two_cores
@pytest.mark.slow
def test_settings_that_changed_meanwhile_are_refused(project, monkeypatch):
    workers = device_training._workers
    changed = opened(project, **{"finetune.image.smoothing": "0.1"})
    monkeypatch.setattr(device_training, "_workers", lambda project, *more: workers(changed, *more))
    with pytest.raises(MmfeatError, match="settings or samples have changed since the command began"):
        tuned(project, "cpu:2")


def test_one_device_is_no_process_more(project, monkeypatch):
    monkeypatch.setattr(device_training, "running", None)
    tuned(project, "cpu:1")


def test_a_fit_that_was_complete_starts_no_process(project, monkeypatch):
    """It was killed before the checkpoint was written."""
    from mmfeat.training import encoder_training

    with monkeypatch.context() as patch:
        patch.setattr(encoder_training, "save_finetuned", lambda *_, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tuned(project)
    monkeypatch.setattr(device_training, "running", None)
    shares = [DeviceShare(device="cpu", threads=1)] * 2
    (result,) = encoder_training.finetune_encoders(opened(project), ["image"], shares=shares)
    assert len(losses(result)) == 3


def test_batches_whose_statistics_are_trained_are_not_divided(project):
    shares = [DeviceShare(device="cpu", threads=1)] * 2
    trained = opened(project, **{f"finetune.{name}.batch_norm": "trained" for name in ("image", "text")})
    with pytest.raises(EncoderError, match=r'^batch_norm = "trained" needs whole batches, which --devices divides'):
        check_batches(trained, "image", shares)
    check_batches(trained, "text", shares)  # it has no batch norms
    check_batches(trained, "image", shares[:1])
    check_batches(project, "image", shares)
    if usable_cores() > 1:
        with pytest.raises(EncoderError, match=r"^encoder.image: .* set \[finetune.image\] batch_norm"):
            finetune(trained, ["image"], devices="cpu:2")
        assert not project.checkpoints.exists()


def test_arguments_that_contradict_one_another_are_refused(project):
    opened_again = mmfeat.Project(project.root, progress=False)
    with pytest.raises(ConfigError, match="devices cannot be used with device"):
        opened_again.finetune(devices="cpu:1", device="cpu")
    with pytest.raises(ConfigError, match="devices cannot be used with freeze"):
        opened_again.finetune(devices="cpu:1", freeze=True)
    with pytest.raises(ConfigError, match="Use GPUs such as 0,1; all; or cpu:N"):
        opened_again.finetune(devices="gpu")
