"""Labels known in part, and projects of one modality, from `init` to predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.projects import TINY

from mmfeat.common.errors import MmfeatError
from mmfeat.config.reader import load_config
from mmfeat.config.schema import METRICS
from mmfeat.inference.next_commands import to_fuse
from mmfeat.project.encoding import extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import selftrain

CLASSES = ("circle", "cross", "star")


@pytest.fixture(scope="module")
def partial(tmp_path_factory, small_source) -> Path:
    """A project of a table with three label columns, a third of whose cells are blank, and twenty blank rows."""
    folder = tmp_path_factory.mktemp("partial")
    rng = np.random.default_rng(0)
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "caption", *CLASSES])
        for name in ("train.csv", "test.csv"):
            for row in csv.DictReader((small_source / name).open(encoding="utf-8")):
                given = set(row.get("Labels", "").split())
                cells = ["" if name == "test.csv" or rng.random() < 1 / 3 else int(c in given) for c in CLASSES]
                writer.writerow([row["ImageID"], Path(row["ImageID"]).stem, row["Caption"], *cells])
    (folder / "mmfeat.toml").write_text(
        TINY.format(source='"t.csv"', text=json.dumps(str(small_source / "text-encoder"))).replace(
            "[split]", f"images = {json.dumps(str(small_source / 'images.zip'))}\n[split]"
        ),
        encoding="utf-8",
    )
    init(folder)
    return folder


def test_labels_known_in_part_go_all_the_way(partial):
    manifest = Project(partial).manifest
    labels = manifest.labels.copy()
    known = (labels >= 0).mean(1)
    assert manifest.columns["labels"] == list(CLASSES)
    assert ((known > 0) & (known < 1)).any()
    assert Project(partial).row_keys("image").present.all()
    finetune(Project(partial))
    extract(Project(partial))
    for head in ("linear", "concat", "crossattn"):
        inputs = ["image"] if head == "linear" else ["image", "text"]
        fuse(Project(partial, {"fuse.head": head, "fuse.inputs": inputs}))
    ensemble(Project(partial), ["fm3"])
    selftrain(Project(partial))
    figures = evaluate(Project(partial), ["image", "fm3-1", "selftrain-1"]).metrics
    for one in figures.values():
        assert np.isfinite([one.scores.value(metric) for metric in METRICS]).all()
        assert one.scores.n_positives.tolist() == (labels[manifest.rows("val")] == 1).sum(0).tolist()
    predicted = predict(Project(partial))
    assert np.array_equal(Project(partial).manifest.labels, labels)
    rows = list(csv.DictReader(predicted.files[0].open(encoding="utf-8")))
    assert list(rows[0]) == ["id", *CLASSES]
    assert len(rows) == len(manifest.rows("unlabelled")) >= 20
    assert {row[name] for row in rows for name in CLASSES} <= {"0", "1"}


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_modality_goes_all_the_way_and_says_which_heads_need_two(tmp_path, small_source, modality):
    rows = list(csv.DictReader((small_source / "train.csv").open(encoding="utf-8")))
    column = {"image": "ImageID", "text": "Caption"}[modality]
    lines = [{"id": row["ImageID"], modality: row[column], "labels": row["Labels"].split()} for row in rows]
    lines += [{"id": f"new{i}", modality: row[column]} for i, row in enumerate(rows[:9])]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    images = (str(small_source / "images.zip"),) if modality == "image" else ()
    init(tmp_path, str(tmp_path / "t.jsonl"), images=images, val=0.25)
    file = tmp_path / "mmfeat.toml"
    assert list(load_config(file).encoder) == [modality]
    text = file.read_text(encoding="utf-8").replace('pretrained = "auto"', 'pretrained = "random"')
    text = text.replace('"efficientnet_b4"', '"test_efficientnet"').replace('size       = "auto"', "size = 32")
    text = text.replace('"google/bert_uncased_L-2_H-128_A-2"', json.dumps(str(small_source / "text-encoder")))
    file.write_text(f"{text}\n[finetune.{modality}]\nepochs = 1\n[fuse.linear]\nepochs = 2\n", encoding="utf-8")
    finetune(Project(tmp_path))
    extract(Project(tmp_path))
    assert to_fuse(Project(tmp_path)) == "mmfeat fuse --head linear"
    for head in ("crossattn", "concat"):
        with pytest.raises(MmfeatError, match=rf"two.*found {modality}. Use: --head linear"):
            fuse(Project(tmp_path, {"fuse.head": head}))
    with pytest.raises(MmfeatError, match=r"fm1 needs two encoders"):
        ensemble(Project(tmp_path), ["fm1"])
    run = fuse(Project(tmp_path)).run
    ensemble(Project(tmp_path), [modality, run.name])
    selftrain(Project(tmp_path, {"selftrain.rounds": 1}))
    assert predict(Project(tmp_path)).n_rows == 9
