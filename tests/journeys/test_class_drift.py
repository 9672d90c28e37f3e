"""Label columns and classes that differ: every command goes by the manifest's classes."""

from __future__ import annotations

import csv
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import label_cells
from mmfeat.data.corrections import FILE
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.encoding import extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.export import export
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict, predict_new
from mmfeat.workflows.review import review

WORDS = {"a": "red apple", "b": "blue boat", "c": "small cat"}
TOML = """\
schema = 1
[data]
source = "t.csv"
labels = ["a", "b", "c"]
[split]
val = 0.25
[encoder.text]
model = "tfidf"
[fuse]
seeds = 1
[fuse.linear]
epochs = 2
"""


@pytest.fixture(scope="module")
def drifted(tmp_path_factory) -> Path:
    """A project whose corrections took the last row of a label column and added a class; with a run of every class."""
    folder = tmp_path_factory.mktemp("drifted")
    chance = random.Random(0)
    rows = [[f"r{i}", *(int(chance.random() < p) for p in (0.6, 0.5)), int(i == 3)] for i in range(40)]
    texts = [" ".join(WORDS[n] for n, yes in zip("abc", row[1:], strict=True) if yes) + f" {row[0]}" for row in rows]
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "caption", "a", "b", "c"])
        out.writerows(
            [row[0], text, *(row[1:] if i < 34 else [""] * 3)]
            for i, (row, text) in enumerate(zip(rows, texts, strict=True))
        )
    (folder / FILE).write_text("id,labels\nr3,a\nr4,d\nr5,d b\nr6,d\nr7,d\n")
    (folder / "mmfeat.toml").write_text(TOML)
    init(folder)
    finetune(Project(folder), freeze=True)
    extract(Project(folder))
    fuse(Project(folder), "linear")
    return folder


@pytest.fixture
def project(drifted, tmp_path) -> Project:
    shutil.copytree(drifted, tmp_path / "p")
    return Project(tmp_path / "p")


def header(file: Path) -> list[str]:
    return next(csv.reader(file.open(encoding="utf-8")))


def test_predictions_have_a_column_for_each_class_of_the_manifest(project):
    assert project.manifest.classes == ("a", "b", "d")
    predict(project)
    assert header(project.root / "predictions.csv") == ["id", "a", "b", "d"]
    names = pq.read_schema(project.root / "predictions.parquet").names
    assert [name for name in names if name.startswith("p_")] == ["p_a", "p_b", "p_d"]


def test_new_rows_have_the_same_columns(project, tmp_path):
    (tmp_path / "new.csv").write_text("id,caption\nz,blue boat\n")
    predict_new(str(tmp_path / "new.csv"), project=project).write(tmp_path / "out.csv")
    assert header(tmp_path / "out.csv") == ["id", "a", "b", "d"]


def test_every_command_goes_by_the_classes_of_the_manifest(project):
    evaluate(project)
    names = {row["class"] for row in csv.DictReader((project.root / "runs/linear-1/evaluation-val.csv").open())}
    assert names == {"a", "b", "d"}
    text = review(project, "linear-1", n=3).file.read_text(encoding="utf-8-sig")
    assert "c (" not in text
    assert export(project, "linear-1", project.root / "model").folder.is_dir()


@pytest.mark.parametrize(
    "command",
    [
        lambda p: predict(p, "linear-1"),
        lambda p: evaluate(p, ["linear-1"]),
        lambda p: review(p, "linear-1"),
        lambda p: export(p, "linear-1", p.root / "model"),
        lambda p: predict(p),
    ],
    ids=["predict", "evaluate", "review", "export", "the best"],
)
@pytest.mark.parametrize("labels", [None, "id,labels\nr4,e\n"], ids=["one gone, one back", "another one"])
def test_a_run_of_other_classes_says_so(project, command, labels):
    (project.root / FILE).unlink()
    if labels:
        (project.root / FILE).write_text(labels)
    init(project.root)
    fresh = Project(project.root)
    assert set(fresh.manifest.classes) != {"a", "b", "d"}
    with pytest.raises(MmfeatError, match=r"other classes|classes have changed|finetune|Run:|Make it again"):
        command(fresh)
    assert "classes have changed" in str(ranked_runs(fresh))


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (["a", "b"], ["a", "b"]),
        (["b", "a"], ["b", "a"]),
        (["b", "c", "a"], ["b", "a"]),
        (["b"], ["b", "a"]),
        (["c"], ["a", "b"]),
    ],
)
def test_columns_are_those_of_the_source_that_are_classes_then_the_other_classes(columns, wanted):
    found, cells = label_cells(np.array([[1, 0]], np.int8), ("a", "b"), columns, " ")
    assert found == wanted
    assert dict(zip(found, cells[0], strict=True)) == {"a": "1", "b": "0"}


def test_runs_and_checkpoints_of_decomposed_class_names_stay_those_of_their_classes(drifted, tmp_path, monkeypatch):
    """As an mmfeat that kept names as they came made them: init brings the manifest up to date, and nothing is stale."""
    folder, odd = tmp_path / "p", unicodedata.normalize("NFD", "é")
    shutil.copytree(
        drifted, folder, ignore=shutil.ignore_patterns("runs", "checkpoints", "features", "manifest.parquet", FILE)
    )
    table = folder / "t.csv"
    table.write_text(table.read_text().replace("id,caption,a,b,c", f"id,caption,z,b,{odd}"), encoding="utf-8")
    (folder / "mmfeat.toml").write_text(TOML.replace('"a", "b", "c"', f'"z", "b", "{odd}"'), encoding="utf-8")
    with monkeypatch.context() as patch:
        for module in ("common.labels", "data.tables.samples", "data.tables.readers"):
            patch.setattr(f"mmfeat.{module}.normal_name", str.strip)
        init(folder)
        finetune(Project(folder), freeze=True)
        extract(Project(folder))
        run = fuse(Project(folder), "linear").run
        predict(Project(folder))
    assert run.classes == Project(folder).manifest.classes == ("z", "b", odd)
    before = pq.read_table(folder / "predictions.parquet")
    made = init(folder)
    assert "for the previous classes" not in made.summary
    project = Project(folder)
    assert project.manifest.classes == ("z", "b", "é")
    assert [one.state for one in ranked_runs(project)] == ["current", "current"]
    predict(project, "linear-1")
    assert header(folder / "predictions.csv") == ["id", "z", "b", odd]  # as the source has them
    assert np.array_equal(pq.read_table(folder / "predictions.parquet")["p_é"], before[f"p_{odd}"])
    evaluate(project, ["linear-1"])
    export(project, "linear-1", folder / "model")
    assert all(one.encoded == 0 for one in extract(Project(folder)).encoders)
