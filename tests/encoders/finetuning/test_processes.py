"""Processes that share a fine-tuning take the steps of one process. Threads stand for them, and exchange tensors in memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mmfeat.common.workers import Worker, WorkerFailed, running
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.finetuning.processes import ALONE, ProcessGroup
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
from mmfeat.encoders.resolve import build_encoder
from mmfeat.project.project import Project
from mmfeat.training.encoder_training import samples_of

CPU = torch.device("cpu")


class Exchange:
    """Tensors that threads give to one another."""

    def __init__(self, size: int) -> None:
        self.barrier, self.given = threading.Barrier(size, timeout=60), [torch.zeros(0)] * size

    def all(self, number: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.given[number] = tensor.clone()
        self.barrier.wait()
        found = list(self.given)
        self.barrier.wait()
        return found


class ThreadGroup(ProcessGroup):
    def __init__(self, number: int, size: int, exchange: Exchange) -> None:
        super().__init__(number, size)
        self.exchange = exchange

    def _sum(self, tensor):
        return tensor.copy_(torch.stack(self.exchange.all(self.number, tensor)).sum(0))

    def _of_first(self, tensor):
        return tensor.copy_(self.exchange.all(self.number, tensor)[0])


def together(make: Callable[[ThreadGroup], EncoderFit], work: Callable[[EncoderFit], object], size: int) -> list:
    """What `work` returns in each of some threads, for the fit that `make` returns before."""
    exchange, found, failed = Exchange(size), [None] * size, []
    fits = [make(ThreadGroup(number, size, exchange)) for number in range(size)]

    def run(number: int) -> None:
        try:
            found[number] = work(fits[number])
        except BaseException as error:
            failed.append(error)
            exchange.barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    assert not failed
    return found


def fit_of(project: Project, name: str, processes=ALONE, *, bad: int = 0, **settings) -> EncoderFit:
    """A fit without dropout; the first `bad` rows that an epoch visits cannot be decoded."""
    encoder, _ = build_encoder(project.config, name, project.checkpoints, pretrained_only=True)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    samples = samples_of(project, name, encoder)
    labels = samples.labels.copy()
    labels[:, 0][::3] = -1  # labels known in part
    config = dataclasses.replace(project.config.finetune_of(name), epochs=2, **settings)
    fit = EncoderFit(
        encoder,
        dataclasses.replace(samples, labels=labels),
        config,
        metric="loss",
        rule=project.config.predict,
        seed=0,
        device=CPU,
        resume_file=project.root / "resume",
        fingerprint="x",
        processes=processes,
    )
    refuse_first(fit, bad)
    return fit


def refuse_first(fit: EncoderFit, bad: int) -> None:
    from mmfeat.common.randomness import epoch_order

    train, load = fit.samples.train, fit.samples.load
    refused = set(train[epoch_order(fit.samples.numbers[train], 0, 0)][:bad].tolist())

    def refusing(row, number, size):
        if row in refused:
            raise UndecodableSample(ValueError("broken"))
        return load(row, number, size)

    fit.batches._samples = dataclasses.replace(fit.samples, load=refusing)


def course(fit: EncoderFit) -> tuple[list[float], list[dict], dict[str, torch.Tensor]]:
    """The losses of all steps, the history, and the tensors of the best epoch."""
    losses, step = [], fit._step

    def watched(batch, number):
        losses.append(float(step(batch, number)))
        return torch.tensor(losses[-1])

    fit._step = watched
    history = fit.run("x").history
    return losses, history, {key: tensor.clone() for key, tensor in fit.best.items()}


SETTINGS = {
    "usual": {"batch_size": 12, "ema": 0.9, "clip": 1.0},
    "weighted": {"batch_size": 12, "weights": "paper", "loss": "focal", "smoothing": 0.1, "optimizer": "adam"},
    "pieces": {"batch_size": 13, "accumulate": 4},
}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["image", "text"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_course_is_that_of_one_process_to_rounding(project, name, size, settings):
    settings = SETTINGS[settings]
    losses, history, best = course(fit_of(project, name, **settings))
    assert len(losses) > 6
    found = together(lambda group: fit_of(project, name, group, **settings), course, size)
    for others, records, tensors in found:
        np.testing.assert_allclose(others, losses, atol=1e-5)
        for key in ("train_loss", "val_loss"):
            np.testing.assert_allclose([r[key] for r in records], [r[key] for r in history], atol=1e-5)
        for key, tensor in best.items():
            torch.testing.assert_close(tensors[key], tensor, atol=1e-3, rtol=1e-3)
            assert torch.equal(tensors[key], found[0][2][key])


def test_samples_that_cannot_be_decoded_are_left_out_alike(project):
    """A whole batch, and all that one of the processes has of the next."""
    losses, _, _ = course(fit_of(project, "text", bad=8, batch_size=8))
    (others, _, _), _ = together(lambda group: fit_of(project, "text", group, bad=8, batch_size=8), course, 2)
    np.testing.assert_allclose(others, losses, atol=1e-5)
    losses, _, _ = course(fit_of(project, "text", bad=1, batch_size=2))
    (others, _, _), _ = together(lambda group: fit_of(project, "text", group, bad=1, batch_size=2), course, 2)
    np.testing.assert_allclose(others, losses, atol=1e-5)


def test_a_parameter_that_nothing_depends_on_is_not_decayed(project):
    def with_unused(processes=ALONE) -> EncoderFit:
        fit = fit_of(project, "text", processes, weight_decay=0.5, lr=0.1)
        fit.parameters.append(torch.nn.Parameter(torch.ones(3, 3)))
        fit.optimizer.param_groups[0]["params"].append(fit.parameters[-1])
        fit.average = None
        return fit

    def unused(fit: EncoderFit) -> torch.Tensor:
        fit.run("x")
        return fit.parameters[-1].detach()

    for one in (unused(with_unused()), *together(with_unused, unused, 2)):
        assert torch.equal(one, torch.ones(3, 3))


def test_memory_that_one_process_lacks_is_no_matter_of_the_others(project):
    losses, _, _ = course(fit_of(project, "image", batch_size=12, accumulate=1))

    def short(group: ThreadGroup) -> EncoderFit:
        fit = fit_of(project, "image", group, batch_size=12, accumulate=1)
        forward = fit.encoder.forward

        def small_memory(batch):
            if group.first and torch.is_grad_enabled() and len(batch["pixels"]) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(batch)

        fit.encoder.forward = small_memory
        return fit

    found = together(short, lambda fit: (course(fit)[0], fit.piece), 2)
    assert [piece for _, piece in found] == [3, 12]
    np.testing.assert_allclose(found[0][0], losses, atol=1e-5)


def test_only_the_first_process_saves_and_any_number_continues(project, monkeypatch):
    from mmfeat.encoders.finetuning import validated_epochs as module

    monkeypatch.setattr(module, "KEEP_SECONDS", 0.0)

    def fresh(processes=ALONE) -> EncoderFit:
        return fit_of(project, "image", processes, batch_size=12)

    losses, _, best = course(fresh())
    keep, kept = EncoderFit._keep, []

    def interrupted(self) -> None:
        keep(self)
        if self.processes.first:
            kept.append((self.state.epoch, self.state.step))
        if (self.state.epoch, self.state.step) == (1, 2):
            raise KeyboardInterrupt

    (project.root / "resume").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(EncoderFit, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            together(fresh, course, 2)
    assert len(kept) == len(set(kept)) > 3

    def resumed(fit: EncoderFit) -> tuple:
        assert fit.resume() == fit.steps + 2
        return course(fit)

    saved = (project.root / "resume").read_bytes()
    rest, _, tensors = resumed(fresh())
    np.testing.assert_allclose(rest, losses[-len(rest) :], atol=1e-5)
    (project.root / "resume").write_bytes(saved)
    (rest, _, others), *_ = together(fresh, resumed, 3)
    np.testing.assert_allclose(rest, losses[-len(rest) :], atol=1e-5)
    for key, tensor in best.items():
        torch.testing.assert_close(tensors[key], tensor, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(others[key], tensor, atol=1e-3, rtol=1e-3)


def test_each_process_drops_other_values():
    seeds = [ThreadGroup(number, 3, Exchange(3)).seed(7) for number in range(3)]
    assert len(set(seeds)) == 3
    assert ALONE.seed(7) == 7


WORKER = """
import os, signal
from pathlib import Path

import numpy as np
import torch

from mmfeat.common.workers import Reports
from mmfeat.encoders.finetuning.processes import joined

reports = Reports()
with reports.ending():
    number, size = reports.request["part"]
    with joined(Path(reports.request["meeting"]), number, size, device=torch.device("cpu")) as group:
        with_gradient, without = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))
        if not group.first:
            with_gradient.grad = torch.arange(6.0).view(3, 2).t()
        loss = group.add_gradients([with_gradient, without], torch.tensor(number + 1.0))
        counts = torch.full((2, 2), number, dtype=torch.int64).t()
        group.make_equal([counts])
        every = np.array([7, 3, 9, 1])
        mine = group.part(every)[:1]
        rows, values = group.gathered(every, mine, np.float32(np.stack([mine, -mine], 1)))
        if reports.request["dies"] and number:
            os.kill(os.getpid(), signal.SIGKILL)
        reports.send(
            loss=float(loss),
            gradient=with_gradient.grad.tolist(),
            none=without.grad is None,
            any=[group.any(group.first), group.any(False)],
            total=float(group.total(torch.tensor(number + 2.0))),
            counts=counts.tolist(),
            rows=rows.tolist(),
            values=values.tolist(),
        )
"""


@pytest.fixture
def run_pair(tmp_path, monkeypatch):
    (tmp_path / "pair_of_a_test.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(dies: bool) -> list[dict]:
        request = {"meeting": str(tmp_path / f"meeting-{dies}"), "dies": dies}
        workers = [
            Worker(name=f"process {number}", request={**request, "part": (number, 2)}, environment={})
            for number in (0, 1)
        ]
        with running("pair_of_a_test", workers, grace=5) as reports:
            return list(reports)

    return run


def test_two_processes_exchange_sums_and_the_firsts_tensors(run_pair):
    one, other = run_pair(dies=False)
    assert one == other
    assert one == {
        "loss": 3.0,
        "gradient": [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]],
        "none": True,
        "any": [True, False],
        "total": 5.0,
        "counts": [[0, 0], [0, 0]],
        "rows": [7, 3],
        "values": [[7.0, -7.0], [3.0, -3.0]],
    }


def test_the_process_that_died_is_named_and_none_waits_for_it(run_pair):
    with pytest.raises(WorkerFailed, match=r"^process 1: the process was ended by SIGKILL"):
        run_pair(dies=True)
