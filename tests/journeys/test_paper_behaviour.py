"""The paper's behaviour, part by part: each test fails when its part is broken, and names the section it is from."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from helpers.heads import made
from torch.nn import functional

from mmfeat.common.labels import sigmoid
from mmfeat.common.losses import class_weights
from mmfeat.config.schema import FuseConfig, PredictConfig, SelftrainConfig
from mmfeat.data.synonyms import load_synonyms
from mmfeat.encoders.families import text_kind
from mmfeat.encoders.finetuning import gradient_steps, validated_epochs
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
from mmfeat.encoders.resolve import build_encoder
from mmfeat.heads.training.fit_heads import fit_head
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.inference.logits import logits_of
from mmfeat.project.project import Project
from mmfeat.selftraining import round_models, rounds
from mmfeat.selftraining.round_models import RoundModels
from mmfeat.selftraining.rounds import self_train
from mmfeat.training import encoder_training, head_comparison
from mmfeat.training.encoder_training import samples_of
from mmfeat.training.head_training import fit_seeds
from mmfeat.workflows.compare_heads import compare_heads
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse

# 4.4: FM1 is the mean of the encoders, FM2 that of FM1 and +FCNN, FM3 that of the encoders and cross-attention.


def test_the_papers_mixtures_in_ensembles(own):
    fuse(own, "concat")
    val = own.manifest.rows("val")
    names = {"fm2": ("fm1-1", "concat-1"), "fm3": ("image", "text", "crossattn-1")}
    made = {recipe: ensemble(own, [recipe]).run.name for recipe in names}
    found = {name: logits_of(own, name, val).logits for name in ("image", "text", "fm1-1", "concat-1", "crossattn-1")}
    np.testing.assert_allclose(found["fm1-1"], (found["image"] + found["text"]) / 2, atol=1e-5)
    for recipe, members in names.items():
        mean = sum(found[name] for name in members) / len(members)
        np.testing.assert_allclose(logits_of(own, made[recipe], val).logits, mean, atol=1e-5)
    thirds = (found["image"] + found["text"] + found["concat-1"]) / 3
    assert np.abs(logits_of(own, made["fm2"], val).logits - thirds).max() > 1e-3  # FM2 weights +FCNN with 1/2


def test_the_papers_mixtures_in_comparisons(own, monkeypatch):
    monkeypatch.setattr(head_comparison, "CLOCKED", 64)
    result = compare_heads(own, ["concat", "crossattn"])
    kept = {model.name: model.kept for model in result.models}
    for part in ("logits", "train_logits"):
        found = {name: getattr(one, part).mean(0) for name, one in kept.items()}
        np.testing.assert_allclose(found["fm1"], (found["image"] + found["text"]) / 2, atol=1e-5)
        np.testing.assert_allclose(found["fm2"], (found["fm1"] + found["concat"]) / 2, atol=1e-5)
        three = (found["image"] + found["text"] + found["crossattn"]) / 3
        np.testing.assert_allclose(found["fm3"], three, atol=1e-5)


# 3.1.2: the loss is weighted by class, for encoders and for heads.


def fit_of(project: Project, name: str, **settings: object) -> EncoderFit:
    """The fit of an encoder, with these settings in the project, which its loader reads too."""
    typed = {key: value for key, value in project.config.dotted() if key in project.config.origins}
    own = {key: value for key, value in typed.items() if project.config.origins[key] == "option"}
    project = Project(project.root, own | {f"finetune.{name}.{key}": value for key, value in settings.items()})
    encoder, _ = build_encoder(project.config, name, project.checkpoints, pretrained_only=True)
    samples, config = samples_of(project, name, encoder), project.config.finetune_of(name)
    more = {"metric": "loss", "rule": PredictConfig(), "seed": 0, "device": torch.device("cpu")}
    return EncoderFit(encoder, samples, config, **more, resume_file=project.root / "resume", fingerprint="x")


@pytest.mark.parametrize("name", ["image", "text"])
def test_class_weights_are_in_the_loss_and_the_gradient_of_an_encoder(project, name):
    fit = fit_of(project, name, weights="paper", accumulate=1, batch_size=32)
    fit.encoder.eval()
    rows = fit.samples.train[:20]
    (batch,) = fit.batches.plain([rows])
    loss = fit._gradients(batch)
    with torch.no_grad():
        logits = fit.output(fit.encoder(dict(batch.inputs)).float())
    labels = torch.as_tensor(fit.samples.labels[batch.rows]).float()
    weights = torch.as_tensor(class_weights(fit.samples.labels[fit.samples.train]))
    assert weights.max() > weights.min() + 0.01
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    total = weights.sum() * len(rows)
    assert float(loss) == pytest.approx(float((each * weights).sum() / total), rel=1e-4)
    by_class = ((torch.sigmoid(logits) - labels) * weights).sum(0) / total
    torch.testing.assert_close(fit.output.bias.grad, by_class, atol=1e-5, rtol=1e-3)


def test_class_weights_reach_the_heads_of_a_project(own, monkeypatch):
    seen = []
    monkeypatch.setattr(
        head_comparison,
        "fit_seeds",
        lambda project, head, data, settings: seen.append(settings) or fit_seeds(project, head, data, settings),
    )
    monkeypatch.setattr(head_comparison, "CLOCKED", 64)
    logits = {}
    for weights in ("none", "paper"):
        project = Project(own.root, {"fuse.mlp.weights": weights, "fuse.mlp.epochs": 3})
        (model,) = (m for m in compare_heads(project, ["mlp"]).models if m.name == "mlp")
        logits[weights] = model.kept.logits
        run = fuse(project, "mlp").run
        np.testing.assert_allclose(
            logits_of(project, run.name, own.manifest.rows("val")).logits, model.kept.logits.mean(0), atol=1e-4
        )
    assert [one.weights for one in seen] == ["none", "paper"]
    assert np.abs(logits["none"] - logits["paper"]).max() > 1e-4


# 3.1.1: words of training captions are replaced by synonyms, and of no other caption.


def test_synonyms_are_in_the_captions_that_are_learned(project, monkeypatch):
    words = sorted({word for caption in project.manifest.captions for word in re.findall("[a-z]+", caption.lower())})
    (project.root / "own.txt").write_text(", ".join(words) + "\n", encoding="utf-8")
    project = Project(project.root, {"finetune.synonyms": "own.txt"})
    replaced, prepared, original = {}, [], text_kind.replace_two

    def recorded(caption, synonyms, number):
        assert synonyms == load_synonyms(project.root / "own.txt")
        replaced[caption, number] = original(caption, synonyms, number)
        return replaced[caption, number]

    monkeypatch.setattr(text_kind, "replace_two", recorded)
    fit = fit_of(project, "text")
    prepare = type(fit.encoder).prepare
    monkeypatch.setattr(type(fit.encoder), "prepare", lambda self, text: prepared.append(text) or prepare(self, text))
    rows = fit.samples.train[:16]
    epochs = [next(iter(fit.batches.augmented([rows], epoch))).inputs["input_ids"] for epoch in (1, 2)]
    (plain,) = fit.batches.plain([rows])
    captions = [project.manifest.captions[row] for row in rows]
    assert {caption for caption, _ in replaced} == set(captions)
    assert prepared == [*replaced.values(), *captions]
    for other in (plain.inputs["input_ids"], epochs[1]):
        assert other.shape != epochs[0].shape or not torch.equal(other, epochs[0])


# 3.1.1: images are flipped; crops and RandAugment are ours.


@pytest.mark.parametrize("settings", [{"crop": 0.3}, {"randaugment": 9}, {"crop": 0.3, "randaugment": 9}])
def test_crops_and_randaugment_are_in_the_pixels_that_are_learned(project, settings):
    def pixels(**settings):
        fit = fit_of(project, "image", **settings)
        return next(iter(fit.batches.augmented([fit.samples.train[:12]], 1))).inputs["pixels"]

    fit = fit_of(project, "image")
    (whole,) = fit.batches.plain([fit.samples.train[:12]])
    flipped, found = pixels(), pixels(**settings)
    is_flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, whole.inputs["pixels"], strict=True)]
    is_same = [torch.equal(a, b) for a, b in zip(flipped, whole.inputs["pixels"], strict=True)]
    assert all(a or b for a, b in zip(is_flipped, is_same, strict=True))
    assert 0 < sum(is_flipped) < 12
    differ = [not torch.equal(a, b) for a, b in zip(flipped, found, strict=True)]
    assert sum(differ) >= 10
    for key in settings if len(settings) > 1 else ():
        assert not torch.equal(found, pixels(**{key: settings[key]}))
    assert torch.equal(pixels(augment=False), whole.inputs["pixels"])


# Table 4: one rate, Adam, no clipping, no average of weights, batch norms that learn, no fit of the output before.


def spied(project: Project, monkeypatch) -> dict[str, list]:
    """Fine-tune the image encoder; what its steps did."""
    seen = {name: [] for name in ("rate", "clip", "average", "batch_norm", "frozen", "optimizer")}
    originals = {
        "set_rate": gradient_steps.set_rate,
        "average": gradient_steps.Average,
        "clip": gradient_steps.nn.utils.clip_grad_norm_,
        "step": EncoderFit._step,
        "frozen": encoder_training._frozen_output,
    }

    def step(self, batch, number):
        norms = [m for m in self.encoder.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        seen["batch_norm"].append({m.training for m in norms})
        loss = originals["step"](self, batch, number)
        seen["rate"].append({group["lr"] for group in self.optimizer.param_groups})
        return loss

    def optimizer_of(*args):
        seen["optimizer"].append(originals_of(*args))
        return seen["optimizer"][-1]

    originals_of = gradient_steps.optimizer_of
    monkeypatch.setattr(gradient_steps, "optimizer_of", optimizer_of)
    monkeypatch.setattr(EncoderFit, "_step", step)
    monkeypatch.setattr(
        gradient_steps, "Average", lambda *args: seen["average"].append(args[1]) or originals["average"](*args)
    )
    monkeypatch.setattr(
        gradient_steps.nn.utils,
        "clip_grad_norm_",
        lambda p, most: seen["clip"].append(most) or originals["clip"](p, most),
    )
    monkeypatch.setattr(
        encoder_training, "_frozen_output", lambda *args: seen["frozen"].append(True) or originals["frozen"](*args)
    )
    seen["history"] = finetune(project, ["image"]).encoders[0].checkpoint.record["history"]
    return seen


def with_recipe(project: Project, recipe: str) -> Project:
    """The project with nothing but the recipe's settings, in two short epochs."""
    text = re.sub(r"\[finetune\.(image|text)\]\n(.+\n)+?(?=\[)", "", (project.root / "mmfeat.toml").read_text())
    (project.root / "mmfeat.toml").write_text(text, encoding="utf-8")
    return Project(
        project.root, {"finetune.recipe": recipe, "finetune.image.epochs": 2, "finetune.image.batch_size": 16}
    )


def test_by_the_recipe_of_the_paper_every_step_is_plain_adam(project, monkeypatch):
    seen = spied(with_recipe(project, "paper"), monkeypatch)
    assert len(seen["rate"]) == 6
    assert set().union(*seen["rate"]) == {5e-4}  # of every layer, at every step
    (optimizer,) = seen["optimizer"]
    assert type(optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}
    assert seen["clip"] == seen["average"] == seen["frozen"] == []
    assert seen["batch_norm"] == [{True}] * 6
    assert [one["epoch"] for one in seen["history"]] == [1, 2]


def test_by_the_default_recipe_none_of_these_is_so(project, monkeypatch):
    seen = spied(with_recipe(project, "best"), monkeypatch)
    assert len(set().union(*seen["rate"])) > 6
    assert type(seen["optimizer"][0]) is torch.optim.AdamW
    assert set(seen["clip"]) == {1.0}
    assert seen["average"] == [0.995]
    assert seen["frozen"] == [True]
    assert seen["batch_norm"] == [{False}] * len(seen["rate"])
    assert seen["history"][0]["epoch"] == 0


def test_without_an_average_the_weights_of_the_last_step_are_evaluated(project, monkeypatch):
    judged = []
    original = validated_epochs.EncoderFit._averaged
    monkeypatch.setattr(EncoderFit, "_averaged", lambda self: judged.append(self.average) or original(self))
    fit = fit_of(project, "image", ema=0.0, epochs=1)
    fit.run("x")
    assert set(judged) <= {None}
    average = fit_of(project, "image", ema=0.9, epochs=1)
    before = [parameter.detach().clone() for parameter in average.parameters]
    average.run("x")
    assert not all(map(torch.equal, before, average.average.tensors))
    assert judged[-1] is average.average is not None
    for kept, mean in zip(average.parameters, average.average.tensors, strict=True):
        torch.testing.assert_close(kept.detach(), mean)  # the best epoch has the averaged weights


# 3.1.4: self-training.


def unlabelled_data():
    data = made(n=160)
    labels = data.labels.clone()
    labels[40:120] = -1
    return dataclasses.replace(data, labels=labels, train=np.arange(40)), np.arange(40, 120)


@pytest.mark.parametrize(("policy", "lenient"), [("all", False), ("paper", False), ("soft", True), ("confident", True)])
def test_the_first_round_of_the_papers_policies_must_improve_the_metric(monkeypatch, policy, lenient):
    data, unlabelled = unlabelled_data()
    asked = []
    monkeypatch.setattr(rounds, "is_accepted", lambda difference, first: asked.append(first) or False)
    config = SelftrainConfig(rounds=2, policy=policy)
    done = self_train(data, unlabelled, config, metric="samples-f1", seed=0, rule=PredictConfig())
    assert asked == [lenient]
    assert done.best == 0


def test_the_teacher_of_all_is_the_mean_of_two_linear_models_and_an_mlp(monkeypatch):
    data, unlabelled = unlabelled_data()
    alone, parts = dataclasses.replace(data, val=data.val[:0]), []
    for name, keys in (("linear", ["image"]), ("linear", ["text"]), ("mlp", ["image", "text"])):
        config = round_models.for_rows(round_models.MLP if name == "mlp" else round_models.LINEAR, 40)
        part = alone.only(*keys)
        parts.append(head_logits(fit_head(name, part, config).head, part))
    config = SelftrainConfig(rounds=1, policy="all")
    fused, judged = RoundModels.of(config, FuseConfig()).trained(data, 0)
    np.testing.assert_allclose(fused, sum(parts) / 3, atol=1e-5)
    np.testing.assert_allclose(judged, parts[2], atol=1e-5)  # val judges the MLP alone
    taught, original = [], rounds.targets_of
    monkeypatch.setattr(rounds, "targets_of", lambda *args, **more: taught.append(args[1]) or original(*args, **more))
    self_train(data, unlabelled, config, metric="samples-f1", seed=0, rule=PredictConfig())
    np.testing.assert_allclose(taught[0], sigmoid(fused[unlabelled].astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("teacher", ["fm1", "fm3"])
def test_the_pseudo_labels_of_the_paper_are_those_of_the_fused_models(monkeypatch, teacher):
    data, unlabelled = unlabelled_data()
    config = SelftrainConfig(rounds=1, policy="paper", teacher=teacher)
    fused, judged = RoundModels.of(config, FuseConfig()).trained(data, 0)
    assert np.array_equal(fused, judged)
    taught, original = [], rounds.with_targets
    monkeypatch.setattr(
        rounds, "with_targets", lambda data, rows, targets: taught.append(targets) or original(data, rows, targets)
    )
    self_train(data, unlabelled, config, metric="samples-f1", seed=0, rule=PredictConfig())
    probs = sigmoid(fused[unlabelled].astype(np.float64))
    wanted = probs > 0.5
    wanted[np.arange(len(wanted)), probs.argmax(1)] |= ~wanted.any(1)  # 3.1.3: else the most probable class
    assert np.array_equal(taught[0].labels, wanted)
