"""`mmfeat fuse --from RUN`: heads start from a run's weights, and its rows count as rows that they were trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.edits import invoked, save
from helpers.heads import CONFIGS, made

import mmfeat as mf
from mmfeat.common.errors import ConfigError, RunError
from mmfeat.heads.training.fit_heads import fit_head, fit_heads
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member
from mmfeat.heads.training.stack import KEPT
from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.project import Project
from mmfeat.runs.run import read_run
from mmfeat.runs.run_names import Naming
from mmfeat.workflows.fuse import fuse

START = "crossattn-1"
STILL = {"fuse.crossattn.lr": 1e-12, "fuse.crossattn.epochs": 1}  # no step changes a weight


def state_of_run(project: Project, name: str) -> str:
    return next(line.about for line in ranked_runs(project) if line.name == name)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_head_starts_from_given_weights_and_keeps_their_standardisation(name):
    before, after = made(), made(n=160, seed=1)
    fits = fit_heads(name, before, [Member(CONFIGS[name], seed) for seed in (0, 1)])
    still = [dataclasses.replace(CONFIGS[name], epochs=1, lr=lr) for lr in (1e-12, 2e-12)]  # variants of one stream
    starts = [fit.head.state_dict() for fit in fits]
    members = [Member(config, 5 + seed, start=start) for config in still for seed, start in enumerate(starts)]
    fresh = [Member(config, 5 + seed) for config in still for seed in (0, 1)]
    both = fit_heads(name, after, members), fit_heads(name, after, fresh)
    for place, (started, new) in enumerate(zip(*both, strict=True)):
        start, buffers = starts[place % 2], dict(started.head.named_buffers())
        assert buffers
        for key, value in started.head.state_dict().items():
            own = start[key] if key in buffers else KEPT * start[key] + (1 - KEPT) * new.head.state_dict()[key]
            torch.testing.assert_close(value, own, atol=1e-6, rtol=1e-5)
    (trained,) = fit_heads(name, after, [Member(CONFIGS[name], 0, start=fits[0].head.state_dict())])
    (again,) = fit_heads(name, after, [Member(CONFIGS[name], 0, start=fits[0].head.state_dict())])
    assert np.array_equal(head_logits(again.head, after), head_logits(trained.head, after))
    new = fit_head(name, after, CONFIGS[name])
    assert trained.history[0]["train_loss"] != new.history[0]["train_loss"]
    assert np.abs(head_logits(trained.head, after) - head_logits(fits[0].head, after)).max() > 1e-3


def test_a_run_starts_from_the_weights_of_another(own):
    val = own.manifest.rows("val")
    still = Project(own.root, STILL)
    result = fuse(still, from_run=START)
    kept, run = read_run(own.runs_folder / START), result.run
    assert run.record["from"] == {"name": START, "fingerprint": kept.record["fingerprint"]}
    before, after, new = (logits_of(own, name, val).logits for name in (START, run.name, fuse(still).run.name))
    assert np.abs(after - before).max() < np.abs(new - before).max()  # it starts nearer than a fit from nothing
    for key in ("head", "inputs", "seeds", "classes"):
        assert run.record[key] == kept.record[key]
    assert f"from {START}" in result.description
    labels = [line.label for line in result.lines]
    assert labels[-3:] == [f"{START}, the start", "crossattn, one seed", "crossattn, mean"]
    trained = fuse(own, from_run=START)
    assert trained.run.name not in (run.name, START)
    assert max(map(len, trained.run.record["history"])) <= -(-own.config.fuse.crossattn.epochs // 4)
    assert not fuse(own, from_run=START).made  # the same run
    own_copy = mf.Project(own.root, progress=False)
    own_copy.rename_run(START, "first")
    assert fuse(Project(own.root), from_run="first").run.name == trained.run.name
    assert "from first" in fuse(Project(own.root), from_run="first").description


def test_the_run_determines_the_network_and_the_project_the_training(own):
    made = fuse(Project(own.root, {"fuse.mlp.hidden": 24, "fuse.seeds": 3, "fuse.inputs": ("text",)}), "mlp").run
    project = Project(own.root, {"fuse.mlp.lr": 1e-3, "fuse.mlp.epochs": 2, "fuse.seeds": 2})
    run = fuse(project, from_run=made.name).run
    settings = run.record["head_config"]
    assert (settings["hidden"], settings["lr"], settings["epochs"]) == (24, 1e-3, 2)
    assert run.record["inputs"] == ["text"]
    assert len(run.record["seeds"]) == 2


def test_rows_of_the_start_count_as_rows_that_were_trained_on(own):
    gone = own.manifest.rows("train")[:3]
    split, labels = own.manifest.split.copy(), own.manifest.labels.copy()
    labels[gone] = -1
    project = save(own, split=split, labels=labels)
    run = fuse(project, from_run=START).run
    ids = project.manifest.ids[gone]
    assert run.learned().among(ids)[0].all()
    split, labels = split.copy(), labels.copy()
    split[gone[:1]], labels[gone[:1]] = "val", own.manifest.labels[gone[:1]]
    project = save(project, split=split, labels=labels)
    assert "trained on rows that are val now" in state_of_run(project, run.name)
    with pytest.raises(RunError, match=f"runs/{START} was trained on rows that are val now"):
        fuse(project, from_run=START)


def test_corrected_labels_are_learned(own):
    row = own.manifest.rows("train")[:2]
    labels = own.manifest.labels.copy()
    labels[row] = 1 - labels[row]
    project = save(own, labels=labels)
    assert "2 rows relabelled since" in state_of_run(project, START)
    run = fuse(project, from_run=START).run
    assert "relabelled" not in state_of_run(project, run.name)
    assert run.record["figures"]["val"] is not None


def test_what_cannot_start(own):
    fuse(own, "concat")
    fuse(Project(own.root, {"fuse.folds": 2}), "linear", naming=Naming(name="folded"))
    cases = [
        ({}, "none-1", RunError, "no run"),
        ({}, "fm3-1", RunError, "runs/fm3-1 was made by mmfeat ensemble. Give a run of mmfeat fuse"),
        ({}, "folded", RunError, "runs/folded was trained in folds"),
        ({"fuse.folds": 2}, START, RunError, "Use: --folds 0"),
        ({"fuse.head": "mlp"}, START, RunError, "fuse.head = 'mlp', but runs/crossattn-1 has 'crossattn'"),
        ({"fuse.inputs": ("image",)}, START, RunError, "fuse.inputs = "),
        ({"fuse.crossattn.hidden": 7}, START, RunError, "fuse.crossattn.hidden = 7"),
        ({"fuse.crossattn.standardise": False}, START, RunError, "fuse.crossattn.standardise = False"),
        ({"fuse.seeds": 9}, START, RunError, "not 9. Use: --seeds"),
        ({"fuse.mlp.lr": 0.1}, START, ConfigError, "fuse.mlp.lr has no effect here"),
    ]
    for settings, name, kind, says in cases:
        with pytest.raises(kind) as error:
            fuse(Project(own.root, settings), from_run=name)
        assert says in str(error.value)
        assert "\n" not in str(error.value)


def test_other_classes_encoders_and_damage_are_one_line(own):
    project = save(own, classes=(*own.manifest.classes[:-1], "another"))
    with pytest.raises(RunError, match=r"is stale: classes have changed\. Train without --from"):
        fuse(project, from_run=START)
    m = own.manifest
    project = save(own, classes=m.classes[::-1], labels=m.labels[:, ::-1])
    with pytest.raises(RunError, match="has the classes in another order"):
        fuse(project, from_run=START)
    project = save(own, classes=m.classes, labels=m.labels)
    head = project.runs_folder / START / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match=f"runs/{START} is damaged"):
        fuse(project, from_run=START)


def test_the_command(own_folder):
    first = invoked(own_folder, "fuse", "--from", START, "--note", "after corrections")
    assert f"from {START}" in first.output
    assert "Made runs/crossattn-2." in first.output
    assert "Already made: runs/crossattn-2." in invoked(own_folder, "fuse", "--from", START).output
    project = mf.Project(own_folder, progress=False)
    assert project.fuse(from_run=START).run.name == "crossattn-2"
