"""A project whose every caption is blank: heads train on the images, nothing divides by zero."""

from __future__ import annotations

import csv
import json

import pytest
from helpers.projects import TINY

from mmfeat.project.project import Project


@pytest.fixture(scope="module")
def blank(tmp_path_factory, small_source):
    from mmfeat.project.encoding import extract
    from mmfeat.project.initialisation import init
    from mmfeat.workflows.finetune import finetune

    folder = tmp_path_factory.mktemp("blank")
    source = folder / "source"
    source.mkdir()
    for path in small_source.iterdir():
        if path.suffix == ".csv":
            rows = list(csv.reader(path.open(encoding="utf-8")))
            with (source / path.name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([rows[0], *([*row[:-1], " "] for row in rows[1:])])
        else:
            (source / path.name).symlink_to(path)
    text = TINY.format(source=json.dumps(str(source)), text=json.dumps(str(small_source / "text-encoder")))
    (folder / "mmfeat.toml").write_text(text, encoding="utf-8")
    init(folder)
    finetune(Project(folder), ["image"], freeze=True)
    extract(Project(folder))
    return folder


@pytest.mark.parametrize("head", ["linear", "concat", "crossattn", "mlp", "gated", "weighted", "labelquery"])
def test_every_head_trains(blank, head):
    from mmfeat.workflows.fuse import fuse

    settings = {f"fuse.{head}.epochs": "2", "fuse.seeds": "1"}
    result = fuse(Project(blank, settings), head)
    assert 0 <= result.lines[-1].samples_f1 <= 1


def test_folds_ensembles_self_training_and_predictions(blank):
    from mmfeat.workflows.ensemble import ensemble
    from mmfeat.workflows.fuse import fuse
    from mmfeat.workflows.predict import predict, predict_new
    from mmfeat.workflows.selftrain import selftrain

    settings = {"fuse.seeds": "1", "fuse.linear.epochs": "2", "fuse.crossattn.epochs": "2", "selftrain.rounds": "1"}
    folded = fuse(Project(blank, {**settings, "fuse.folds": "3"}), "linear")
    assert folded.run.record["folds"] == 3
    head = fuse(Project(blank, settings), "crossattn").run.name
    ensemble(Project(blank, settings), [head, "image"])
    selftrain(Project(blank, settings))
    assert predict(Project(blank), head).n_rows == 20
    found = predict_new(caption="a red circle", project=Project(blank), run=head)
    assert found.predictions.probs.shape == (1, len(Project(blank).manifest.classes))


def test_heads_are_compared(blank):
    from mmfeat.workflows.compare_heads import compare_heads

    settings = {"fuse.seeds": "1", "fuse.linear.epochs": "1", "fuse.concat.epochs": "1"}
    assert compare_heads(Project(blank, settings), ["linear", "concat"])
