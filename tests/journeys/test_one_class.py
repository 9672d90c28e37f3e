"""One class alone: the most probable of one class would be given to every row."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.edits import invoked

from mmfeat.config.schema import FILE_NAME
from mmfeat.project.encoding import extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict

WARNING = 'One class and empty = "most-probable": every row is predicted positive'
ENCODERS = """\
[encoder.text]
model = {text}
pretrained = "random"
[fuse]
inputs = ["text"]
head = "linear"
seeds = 1
[fuse.linear]
epochs = 3
"""


def table(path, classes=("dog",)):
    rows = [
        {
            "id": str(i),
            "caption": f"{'dog' if i % 2 else 'bird'} number {i}",
            "labels": list(classes[i % 2 :][:1]) if i % 2 == 0 else [],
        }
        for i in range(40)
    ]
    rows += [{"id": f"u{i}", "caption": f"bird {i}", "labels": None} for i in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def tiny(folder, source, small_source, predict_table=""):
    folder.mkdir()
    data = f"schema = 1\n[data]\nsource = {json.dumps(str(source))}\n[split]\nval = 0.25\n"
    text = ENCODERS.format(text=json.dumps(str(small_source / "text-encoder")))
    (folder / FILE_NAME).write_text(data + text + predict_table, encoding="utf-8")
    return init(folder)


def test_a_new_project_of_one_class_leaves_rows_empty_and_says_so(tmp_path):
    said = init(tmp_path / "p", str(table(tmp_path / "t.jsonl"))).summary
    assert "One class: a row whose probability does not pass the threshold gets no label" in said
    assert 'empty     = "none" ' in (tmp_path / "p" / FILE_NAME).read_text()
    assert Project(tmp_path / "p").config.predict.empty == "none"


def test_a_new_project_of_two_classes_is_as_before(tmp_path):
    (tmp_path / "t.csv").write_text(
        "id,caption,labels\n" + "".join(f"{i},c{i},{'x' if i % 2 else 'y'}\n" for i in range(30))
    )
    said = init(tmp_path / "p", str(tmp_path / "t.csv")).summary
    assert "One class" not in said
    assert 'empty     = "most-probable"        # labels of a row' in (tmp_path / "p" / FILE_NAME).read_text()


@pytest.mark.parametrize(
    ("predict_table", "overrides", "expected"),
    [
        ("", {}, "none"),
        ('[predict]\nempty = "most-probable"\n', {}, "most-probable"),
        ("", {"predict.empty": "most-probable"}, "most-probable"),
        ("[predict]\nthreshold = 0.4\n", {}, "none"),
    ],
)
def test_what_is_asked_for_is_kept(tmp_path, small_source, predict_table, overrides, expected):
    said = tiny(tmp_path / "p", table(tmp_path / "t.jsonl"), small_source, predict_table).summary
    assert Project(tmp_path / "p", overrides).config.predict.empty == expected
    assert (WARNING in said) == ("most" in predict_table)


def test_without_a_manifest_or_with_a_damaged_one_settings_can_be_read(tmp_path, small_source):
    tiny(tmp_path / "p", table(tmp_path / "t.jsonl"), small_source)
    (tmp_path / "p" / "manifest.parquet").write_bytes(b"nonsense")
    assert Project(tmp_path / "p").config.predict.empty == "most-probable"
    (tmp_path / "p" / "manifest.parquet").unlink()
    assert Project(tmp_path / "p").config.predict.empty == "most-probable"


def test_rows_differ_where_nothing_was_asked_for(tmp_path, small_source):
    tiny(tmp_path / "p", table(tmp_path / "t.jsonl"), small_source)
    extract(Project(tmp_path / "p"))
    fuse(Project(tmp_path / "p"))
    result = predict(Project(tmp_path / "p", {"predict.threshold": "1.0"}))
    assert result.n_empty == result.n_rows == 10
    lines = (tmp_path / "p" / "predictions.csv").read_text().splitlines()
    assert all(line.endswith(",") for line in lines[1:])
    assert np.unique(Project(tmp_path / "p").manifest.labels[:40]).tolist() == [0, 1]


@pytest.mark.slow
def test_a_project_that_asks_for_the_most_probable_is_warned_by_every_figure(tmp_path, small_source):
    folder = tmp_path / "p"
    tiny(folder, table(tmp_path / "t.jsonl"), small_source, '[predict]\nempty = "most-probable"\n')
    for command in ("status", "extract", "fuse", "evaluate"):
        done = invoked(folder, command)
        assert (WARNING in done.stderr) == (command != "extract"), command


@pytest.mark.parametrize("empty", ["most-probable", "none"])
def test_status_says_when_every_row_is_positive_by_rule(tmp_path, small_source, empty):
    tiny(tmp_path / "p", table(tmp_path / "t.jsonl"), small_source, f'[predict]\nempty = "{empty}"\n')
    done = invoked(tmp_path / "p", "status")
    assert (WARNING in done.stderr) == (empty != "none")
