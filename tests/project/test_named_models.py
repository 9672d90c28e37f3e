"""Each command that takes a run takes every name that `mmfeat runs` lists, and says the same of other names."""

from __future__ import annotations

import re
import shutil

import click
import numpy as np
import pytest
from helpers.command_line import leaves, run_cli
from mmfeat.cli import group

from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.project import Project
from mmfeat.workflows.predict import predict, predict_new
from mmfeat.workflows.review import review

NAMES = ("crossattn-1", "fm3-1", "image", "text")
COMMANDS = {
    "predict": lambda name: [["predict", name], ["predict", name, "new.csv"], ["predict", name, "--caption", "a ring"]],
    "review": lambda name: [["review", name, "--n", "3"], ["review", name, "--split", "train", "--out", "t.csv"]],
    "report": lambda name: [["report", name]],
    "audit": lambda name: [["audit", name, "--set", "fuse.head=linear"]],
    "evaluate": lambda name: [["evaluate", name], ["evaluate", "fm3-1" if name == "text" else "text", name]],
    "export": lambda name: [["export", name, "model"]],
    "ensemble": lambda name: [["ensemble", name, "text" if name != "text" else "image"]],
}


@pytest.fixture
def folder(own_folder):
    (own_folder / "new.csv").write_text("id,caption\nq1,a red circle\nq2,a square\n", encoding="utf-8")
    return own_folder


def takes_a_run(command: click.Command) -> bool:
    context = click.Context(command)
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    return any(re.search(r"\bRUN|MEMBER", one.make_metavar(context)) for one in arguments)


def test_these_are_all_commands_that_take_a_run():
    assert {" ".join(path) for path, command in leaves(group).items() if takes_a_run(command)} == set(COMMANDS)


def test_these_are_all_names(trained):
    assert {line.name for line in ranked_runs(Project(trained))} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_every_name(folder, name):
    for lines in COMMANDS.values():
        for line in lines(name):
            done = run_cli(*line, cwd=folder, check=False)
            if name == "image" and line[-1] in ("new.csv", "a ring"):
                assert done.stderr == "Error: image reads images, but the samples to predict have none\n"
            else:
                assert (done.returncode, "Next: " in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_any_other_name_is_refused_with_those_that_there_are(folder, command):
    done = run_cli(*COMMANDS[command]("nothing-1")[0], cwd=folder, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: no run or encoder 'nothing-1'. There are: crossattn-1, fm3-1, image, text\n"


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"audit"}))  # which trains linear heads on encoders itself
def test_an_encoder_without_a_linear_probe_is_refused_with_what_to_type(folder, command):
    shutil.rmtree(folder / "checkpoints")
    done = run_cli(*COMMANDS[command]("image")[0], cwd=folder, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: encoder 'image' has no linear probe yet. Run: mmfeat finetune image --freeze\n"


def test_an_encoder_predicts_by_its_linear_probe(folder):
    project = Project(folder)
    rows = project.manifest.rows("unlabelled")
    result = predict(project, "text")
    assert (result.run, result.chosen) == ("text", "")
    logits = logits_of(project, "text", rows).logits
    np.testing.assert_allclose(result.probs, 1 / (1 + np.exp(-logits)), atol=1e-6)
    new = predict_new("", caption="a red circle", project=project, run="text")
    assert new.model == "text"
    assert list(new.predictions.unimodal) == ["text"]


def test_a_review_by_an_encoder_has_no_column_of_itself(folder):
    result = review(Project(folder), "text", n=3)
    assert result.without_prediction == []
    assert not [name for name in result.columns if name.startswith("opinion_")]
    assert result.n_rows == 3
