"""The fit of an encoder: rates by layer, averages, pieces, statistics of batch norms, losses, what stops it and what is kept."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from helpers.command_line import run_cli
from PIL import Image

from mmfeat.common.errors import EncoderError
from mmfeat.common.losses import masked_loss, summed_loss
from mmfeat.common.schedule import schedule
from mmfeat.config.finetune_recipes import FinetuneConfig, recipe_settings
from mmfeat.encoders.finetuning import validated_epochs as module
from mmfeat.encoders.finetuning.optimisation import Average, optimizer_of, piece_size
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
from mmfeat.encoders.resolve import build_encoder
from mmfeat.project.project import Project
from mmfeat.training.encoder_training import samples_of
from mmfeat.workflows.finetune import finetune

CPU = torch.device("cpu")


def fit_of(project: Project, name: str, n_train: int | None = None, **settings) -> EncoderFit:
    encoder, _ = build_encoder(project.config, name, project.checkpoints, pretrained_only=True)
    samples = samples_of(project, name, encoder)
    if n_train is not None:
        samples = dataclasses.replace(samples, train=samples.train[:n_train])
    config = dataclasses.replace(project.config.finetune_of(name), **settings)
    rule, file = project.config.predict, project.root / "resume"
    return EncoderFit(
        encoder, samples, config, metric="loss", rule=rule, seed=0, device=CPU, resume_file=file, fingerprint="x"
    )


def gradients(fit: EncoderFit) -> list[torch.Tensor]:
    torch.manual_seed(0)
    (batch,) = fit.batches.plain([fit.samples.train[:12]])
    fit._train_mode()
    fit._gradients(batch)
    found = [p.grad.clone() for p in fit.parameters if p.grad is not None]
    fit.optimizer.zero_grad()
    return found


def with_options(project: Project, name: str, **settings) -> Project:
    return Project(project.root, {f"finetune.{name}.{key}": str(value) for key, value in settings.items()})


@pytest.mark.parametrize("name", ["image", "text"])
def test_every_parameter_has_a_depth_from_input_to_output(project, name):
    encoder, _ = build_encoder(project.config, name, project.checkpoints)
    depths, names = encoder.layers(), [name for name, _ in encoder.named_parameters()]
    assert sorted(depths) == sorted(names)
    top = max(depths.values())
    assert set(depths.values()) == set(range(top + 1))
    assert top >= 2
    first, last = names[0], names[-1]
    assert depths[first] == 0
    assert depths[last] == top


@pytest.mark.parametrize("name", ["image", "text"])
def test_rates_fall_layer_by_layer_and_norms_do_not_decay(project, name):
    fit = fit_of(project, name, layer_decay=0.5, weight_decay=0.1)
    depths, top = fit.encoder.layers(), max(fit.encoder.layers().values())
    of = {id(p): group for group in fit.optimizer.param_groups for p in group["params"]}
    for key, parameter in fit.encoder.named_parameters():
        assert of[id(parameter)]["share"] == pytest.approx(0.5 ** (top - depths[key]))
        assert of[id(parameter)]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    assert of[id(fit.output.weight)]["share"] == 1
    assert len(of) == len(fit.parameters)


def test_frozen_layers_stay_as_they_were(project):
    fit = fit_of(project, "image", frozen_layers=2, lr=0.1)
    before = {name: p.detach().clone() for name, p in fit.encoder.named_parameters()}
    fit.run("x")
    depths = fit.encoder.layers()
    for name, parameter in fit.encoder.named_parameters():
        assert torch.equal(parameter, before[name]) == (depths[name] < 2), name


def test_pretrained_batch_norm_statistics_survive_small_data(project):
    """A handful of images would move them far; with the statistics frozen not a bit of them changes."""
    moved = {}
    for kind in ("frozen", "trained"):
        fit = fit_of(project, "image", n_train=8, batch_norm=kind, epochs=2)
        before = {n: b.clone() for n, b in fit.encoder.named_buffers() if "running" in n}
        assert len(before) > 4
        fit.run("x")
        moved[kind] = max(float((b - before[n]).abs().max()) for n, b in fit.encoder.named_buffers() if n in before)
    assert moved["frozen"] == 0
    assert moved["trained"] > 0.01


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(project, name):
    weights = {"weights": "paper", "loss": "focal", "smoothing": 0.1}
    fits = [fit_of(project, name, accumulate=k, batch_size=12, **weights) for k in (1, 4)]
    for fit in fits:
        for part in fit.encoder.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    whole, pieces = (gradients(fit) for fit in fits)
    assert [fit.piece for fit in fits] == [12, 3]
    assert len(whole) == len(pieces) > 5
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * (1 + float(one.abs().max())))


@pytest.mark.parametrize(
    ("name", "batch_norm", "differs"),
    [("image", "trained", True), ("image", "frozen", False), ("text", "trained", False)],
)
def test_halves_of_a_batch_are_other_steps_if_batch_norms_are_trained_and_that_is_said(
    project, name, batch_norm, differs, monkeypatch, capsys
):
    fit = fit_of(project, name, accumulate=1, batch_size=12, batch_norm=batch_norm)
    original, calls = type(fit)._accumulated, []

    def once_too_large(self, *args):
        calls.append(self.piece)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *args)

    monkeypatch.setattr(type(fit), "_accumulated", once_too_large)
    gradients(fit)
    said = capsys.readouterr().err
    assert calls == [12, 6]
    assert "batches are now computed in pieces of 6" in said
    assert ("The steps are not the same" in said) is differs
    assert ("batch_size = 6" in said) is differs


def test_what_is_too_large_for_the_memory_is_computed_in_halves(project, monkeypatch, capsys):
    fit = fit_of(project, "image", accumulate=1, batch_size=12)
    whole = gradients(fit)
    forward = type(fit.encoder).forward

    def small_memory(self, batch):
        if len(batch["pixels"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch)

    monkeypatch.setattr(type(fit.encoder), "forward", small_memory)
    halved = gradients(fit)
    assert fit.piece == 3
    assert "batches are now computed in pieces of 6" in capsys.readouterr().err
    assert all(torch.allclose(a, b, atol=1e-5 * (1 + float(a.abs().max()))) for a, b in zip(whole, halved, strict=True))
    monkeypatch.setattr(type(fit.encoder), "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(EncoderError, match="a single sample is too large for the memory of cpu"):
        gradients(fit)


def test_pieces_are_small_on_a_cpu_where_that_changes_nothing():
    frozen = FinetuneConfig(batch_size=64)
    assert piece_size(frozen, CPU) == 16
    assert piece_size(frozen, CPU, tail=True) == 64
    assert piece_size(frozen, torch.device("cuda")) == 64
    assert piece_size(dataclasses.replace(frozen, batch_norm="trained"), CPU) == 64
    assert piece_size(dataclasses.replace(frozen, accumulate=3), CPU) == 22


def test_the_average_follows_and_steps_aside():
    weight = torch.zeros(3, requires_grad=True)
    average = Average([weight], 0.9)
    for step in range(200):
        with torch.no_grad():
            weight += 1
        average.update(step)
    lag = (weight[0] - average.tensors[0][0]).item()
    assert lag == pytest.approx(0.9 / 0.1, rel=1e-3)  # of what grows by 1 a step
    now = weight.detach().clone()
    with average.in_place():
        assert torch.allclose(weight, now - lag)
    assert torch.equal(weight, now)


def test_the_paper_has_one_rate_and_the_default_a_course():
    assert [schedule(step, 100, 0.0, constant=True) for step in (0, 50, 99)] == [1, 1, 1]
    assert schedule(0, 100, 0.1, constant=True) == 0.1
    assert schedule(99, 100, 0.1) < 0.001
    image, text = (recipe_settings("paper", modality) for modality in ("image", "text"))
    assert (image.lr, image.batch_size, image.optimizer) == (5e-4, 60, "adam")  # Table 4
    assert (text.lr, text.batch_size, text.optimizer) == (5e-4, 256, "adam")
    assert (image.weights, image.loss, image.augment) == ("paper", "bce", True)


def test_labels_that_are_not_known_count_in_no_loss():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor(np.random.default_rng(0).integers(0, 2, (6, 4)), dtype=torch.int8)
    labels[2], labels[:, 3] = -1, -1
    for kind in ("bce", "focal", "asymmetric"):
        total, weight = summed_loss(logits, labels, None, kind, smoothing=0.2)
        (gradient,) = torch.autograd.grad(total, logits)
        assert weight == 15
        assert not gradient[2].any()
        assert not gradient[:, 3].any()
        assert gradient[:2, :3].all()
        plain, _ = summed_loss(logits, labels, None, kind)
        assert masked_loss(logits, labels, kind=kind).item() == pytest.approx(plain.item() / 15)


def test_smoothing_moves_the_best_probability_off_the_ends():
    logits = torch.linspace(-6, 6, 1201)
    labels = torch.ones(1201, 1, dtype=torch.int8)
    losses = torch.stack([summed_loss(x.view(1, 1), labels[:1], smoothing=0.2)[0] for x in logits])
    assert float(torch.sigmoid(logits[losses.argmin()])) == pytest.approx(0.9, abs=0.01)


def test_stopped_within_an_epoch_it_ends_with_the_same_bytes(project, monkeypatch):
    settings = {"ema": 0.9, "epochs": 3, "batch_size": 8, "randaugment": 5, "crop": 0.5, "start_size": 24}

    def tensors() -> bytes:
        (result,) = finetune(with_options(project, "image", **settings), ["image"]).encoders
        return (result.checkpoint.folder / "encoder.safetensors").read_bytes()

    straight = tensors()
    shutil.rmtree(project.checkpoints)
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.0)
    keep, stops = EncoderFit._keep, [(0, 2), (1, 1), (2, 3)]

    def killed(self):
        keep(self)
        if stops and (self.state.epoch, self.state.step) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(EncoderFit, "_keep", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tensors()
    assert tensors() == straight
    assert not stops


def test_it_begins_with_the_output_of_the_frozen_encoder(project):
    (frozen,) = finetune(project, ["text"], freeze=True).encoders
    (tuned,) = finetune(with_options(project, "text", head_first="true", lr=0), ["text"]).encoders
    assert tuned.checkpoint.record["history"][0]["epoch"] == 0
    assert "no epoch was better than the frozen encoder" in tuned.note
    assert tuned.checkpoint.record["best_epoch"] == 0
    now, before = tuned.metrics.as_dict(), frozen.metrics.as_dict()
    assert now.keys() == before.keys()
    for name, value in before.items():
        assert now[name] == (pytest.approx(value, rel=1e-6) if name in ("loss", "ece") else value)
    assert tuned.checkpoint.encoder_key == frozen.checkpoint.encoder_key


def test_a_loss_that_is_no_number_keeps_the_best_epoch_before(project, monkeypatch):
    step = EncoderFit._step

    def overflowing(self, batch, number):
        loss = step(self, batch, number)
        return loss * float("nan") if (self.state.epoch, self.state.step) == (1, 1) else loss

    monkeypatch.setattr(EncoderFit, "_step", overflowing)
    with pytest.raises(EncoderError, match=r"encoder.text: epoch 2, step 2: the loss is nan. checkpoints/text-1 holds"):
        finetune(project, ["text"])
    assert Project(project.root).identity("text").checkpoint == "text-1"
    monkeypatch.setattr(EncoderFit, "_step", step)
    (result,) = finetune(Project(project.root), ["text"]).encoders  # what was stopped is not what was asked for
    assert (result.checkpoint.name, result.made) == ("text-2", True)


def test_a_loss_that_is_no_number_at_once_makes_nothing(project):
    with pytest.raises(EncoderError, match=r"encoder.text: epoch 1, step \d: the loss is"):
        finetune(_overflowing(project), ["text"])
    assert not list(project.checkpoints.glob("text-*"))


def _overflowing(project: Project) -> Project:
    encoder, _ = build_encoder(project.config, "text", project.checkpoints)
    state = {name: torch.full_like(t, float("nan")) for name, t in encoder.network.state_dict().items()}
    torch.save(state, project.root / "broken.pth")
    path = project.root / "mmfeat.toml"
    head, _, tail = path.read_text().partition("[encoder.text]")
    path.write_text(head + "[encoder.text]" + tail.replace('"random"', '"broken.pth"', 1))
    return Project(project.root)


def test_the_last_epoch_is_a_checkpoint_of_its_own(project, monkeypatch):
    judge = EncoderFit._judge

    def first_is_best(self, record):
        judge(self, record)
        if record["epoch"] == 1:
            self.state.best_value = -1.0  # of the loss: none will be less

    monkeypatch.setattr(EncoderFit, "_judge", first_is_best)
    project = Project(project.root, {"metric": "loss", "finetune.text.lr": "0.01"})
    (result,) = finetune(project, ["text"]).encoders
    assert result.checkpoint.record["best_epoch"] == 1
    path = project.root / "mmfeat.toml"
    text = path.read_text().replace("[encoder.text]", '[encoder.text]\ncheckpoint = "checkpoints/text-1/last"')
    path.write_text(text)
    identity = Project(project.root).identity("text")
    assert identity.checkpoint == "text-1/last"
    assert identity.spec.key not in (result.checkpoint.encoder_key, project.pretrained("text").spec.key)
    encoder, checkpoint = build_encoder(Project(project.root).config, "text", project.checkpoints)
    assert checkpoint.record["best_epoch"] == 2
    assert encoder.spec().key == identity.spec.key == checkpoint.encoder_key


def test_a_learning_curve_and_tensorboard_files_lie_beside_it(project, drawn):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (result,) = finetune(project, ["text"]).encoders
    with Image.open(result.checkpoint.folder / "learning-curve.png") as image:
        assert image.width > 500
    (folder,) = (project.checkpoints / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/lr", "val/loss", "val/samples_f1", "val/map"} <= set(events.Tags()["scalars"])
    found = [e.value for e in events.Scalars("val/loss")]
    assert found == pytest.approx([r["val_loss"] for r in result.checkpoint.record["history"]], rel=1e-5)


def test_the_users_synonyms_are_read_and_change_the_plan(project, tmp_path):
    first = finetune(project, ["text"]).encoders[0].checkpoint
    (project.root / "mine.csv").write_text("red, crimson\n", encoding="utf-8")
    mine = Project(project.root, {"finetune.synonyms": "mine.csv"})
    second = finetune(mine, ["text"]).encoders[0].checkpoint
    assert (first.name, second.name) == ("text-1", "text-2")
    (project.root / "mine.csv").write_text("red\n", encoding="utf-8")
    done = run_cli("finetune", "text", "--synonyms", "mine.csv", cwd=project.root, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "mine.csv:1: a line is two or more different words" in done.stderr


def test_it_stops_when_val_no_longer_rises(project):
    options = {"metric": "loss", "finetune.text.lr": "0", "finetune.text.epochs": "9", "finetune.text.patience": "2"}
    (result,) = finetune(Project(project.root, options), ["text"]).encoders
    assert [r["epoch"] for r in result.checkpoint.record["history"]] == [1, 2, 3]  # the first is best, then two in vain


def test_the_optimizer_is_the_one_that_is_asked_for(project):
    encoder, _ = build_encoder(project.config, "text", project.checkpoints)
    output = torch.nn.Linear(encoder.width, 3)
    assert type(optimizer_of(encoder, output, FinetuneConfig(optimizer="adam"))) is torch.optim.Adam
    assert type(optimizer_of(encoder, output, FinetuneConfig(optimizer="adamw"))) is torch.optim.AdamW


@pytest.mark.parametrize("name", ["image", "text"])
def test_val_rows_are_scored_as_extraction_sees_them(project, name):
    """However wild the augmentation: the figures while training are those of the stored features."""
    (result,) = finetune(with_options(project, name, crop=0.1, randaugment=9, start_size=16), [name]).encoders
    (best,) = [r for r in result.checkpoint.record["history"] if r["epoch"] == result.checkpoint.record["best_epoch"]]
    assert best["val_loss"] == pytest.approx(result.metrics.scores.loss, abs=1e-3)  # the store keeps float16
    assert best["val_map"] == pytest.approx(result.metrics.scores.map, abs=0.02)


def test_the_same_image_has_the_same_variant_whatever_else_is_drawn(project):
    fit = fit_of(project, "image", crop=0.3, randaugment=9)
    first = next(iter(fit.batches.augmented([fit.samples.train[:4]], 1))).inputs["pixels"]
    np.random.seed(5)
    again = next(iter(fit.batches.augmented([fit.samples.train[:4][::-1].copy()], 1))).inputs["pixels"]
    other = next(iter(fit.batches.augmented([fit.samples.train[:4]], 2))).inputs["pixels"]
    assert torch.equal(first, again.flip(0))
    assert not torch.equal(first, other)
    state = np.random.get_state()[1].copy()
    next(iter(fit.batches.augmented([fit.samples.train[:4]], 3)))
    assert (np.random.get_state()[1] == state).all()
