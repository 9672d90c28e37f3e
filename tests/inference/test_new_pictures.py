"""Pictures are predicted from folders, archives and patterns; what is typed for one place or setting acts there."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli

from mmfeat.common.errors import ConfigError, DataError, OutputError
from mmfeat.data.sample_kinds import PICTURE, PICTURES, TABLE, kind_of_sample
from mmfeat.inference.new_images import image_rows
from mmfeat.project.project import Project
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict, predict_new


@pytest.fixture
def photos(small_source, tmp_path) -> Path:
    """Six pictures, one of them in a folder below."""
    folder = tmp_path / "photos"
    with zipfile.ZipFile(small_source / "images.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".png", ".jpg"))][:6]
        for number, name in enumerate(names):
            place = folder / ("deep/er" if number == 5 else ".") / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(name))
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder


IDS = ["0.png", "1.png", "2.png", "3.png", "4.png", "deep/er/5.png"]


def test_what_is_typed_is_told_apart(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    (photos.parent / "linear-1").mkdir()
    kinds = {"photos": PICTURES, "photos/": PICTURES, "gone/": PICTURES, "photos/*.png": PICTURES, "x.zip": PICTURES}
    kinds |= {"photos/0.png": PICTURE, "gone.jpg": PICTURE, "photos/notes.txt": TABLE, "a.csv": TABLE, "fm3-1": ""}
    assert {text: kind_of_sample(text, ["linear-1"]) for text in kinds} == kinds
    assert kind_of_sample("linear-1", ["linear-1"]) == ""
    assert kind_of_sample("./linear-1", ["linear-1"]) == PICTURES


def test_folders_archives_and_patterns_hold_the_same_pictures(photos):
    assert image_rows([str(photos)]).ids == IDS
    with zipfile.ZipFile(photos.parent / "all.zip", "w") as archive:
        for name in IDS:
            archive.write(photos / name, name)
    assert image_rows([str(photos.parent / "all.zip")]).ids == IDS
    assert image_rows([str(photos / "*.png")]).ids == IDS[:5]
    assert image_rows([str(photos / "0.png"), str(photos / "deep")]).ids == ["0.png", "er/5.png"]
    with pytest.raises(DataError, match="no such picture, folder or archive"):
        image_rows([str(photos / "*.gif")])
    (photos.parent / "empty").mkdir()
    with pytest.raises(DataError, match="no image \\(looked for"):
        image_rows([str(photos.parent / "empty")])


def test_captions_are_found_by_the_pictures_names(photos):
    table = photos.parent / "c.csv"
    table.write_text("image,caption\n0,a dog\nphotos/1.png,a cat\n5.png,a bird\nelse.png,x\n", encoding="utf-8")
    rows = image_rows([str(photos)], str(table))
    assert dict(zip(rows.ids, rows.captions, strict=True)) == dict.fromkeys(IDS, "") | {
        "0.png": "a dog",
        "1.png": "a cat",
        "deep/er/5.png": "a bird",
    }
    table.write_text("image,Q\nelse.png,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="no captions"):
        image_rows([str(photos)], str(table))
    with pytest.raises(DataError, match=r"none of 1 row names one of 6 pictures.*'0.png'.*'else.png'"):
        image_rows([str(photos)], str(table), {"caption": "Q"})


def test_a_folder_by_the_command(photos, own, exported):
    for more in (["--model", str(exported)], []):
        cwd = own.root if not more else photos.parent
        done = run_cli("predict", str(photos), *more, cwd=cwd)
        assert "Made photos-predictions.csv (6 rows)" in done.stdout
        rows = list(csv.reader((cwd / "photos-predictions.csv").open(encoding="utf-8")))
        assert [row[0] for row in rows[1:]] == IDS
        again = run_cli("predict", str(photos), *more, cwd=cwd)
        assert "Made photos-predictions.csv" in again.stdout


def test_arguments_that_contradict_one_another_are_refused(photos, own, exported):
    table = photos.parent / "t.csv"
    table.write_text("id,caption\na,a dog\n", encoding="utf-8")
    one, many, model = str(photos / "0.png"), str(photos), {"model": str(exported)}
    for what, where in (
        (one, {"images": ("x",)}),
        (one, {"columns": {"caption": "x"}}),
        (one, {"captions": "c.csv"}),
        (many, {"images": ("x",)}),
        (str(table), {"captions": "c.csv"}),
        ([str(table), one], {}),
        (one, {"project": own}),
        (one, {"run": "fm3-1"}),
        (one, {"threshold": 7}),
        (one, {"threshold": "tuned"}),
    ):
        with pytest.raises(ConfigError):
            predict_new(what, **where, **model)
    with pytest.raises(DataError, match="--captions FILE"):
        predict_new(many, caption="a dog", **model)
    for what in ("https://example.com/a.jpg", "https:/example.com/a.jpg", "data:image/png;base64,AAAA"):
        with pytest.raises(DataError, match=r"is a (URL: download|data URI: save) it"):
            predict_new(what, **model)


def test_arguments_are_stronger_than_the_projects_settings(own):
    """And what is recorded of a run says so."""
    low, high = (
        predict_new("", caption="a red circle", project=own, run="crossattn-1", threshold=t) for t in (0.0, 1.0)
    )
    assert low.decision.threshold == 0.0
    assert low.predictions.predicted.sum() == len(own.manifest.classes)
    assert high.predictions.predicted.sum() == 1  # the most probable
    assert own.config.predict.threshold == 0.5
    with pytest.raises(ConfigError, match="device"):
        predict_new("", caption="a", project=own, run="crossattn-1", device="mps")
    run = fuse(own, head="concat").run
    assert run.record["head"] == run.record["config"]["fuse"]["head"] == "concat"
    assert run.record["origins"]["fuse.head"] == "option"
    assert own.config.fuse.head == "crossattn"
    assert fuse(Project(own.root, {"fuse.head": "concat"})).run.name == run.name
    with pytest.raises(ConfigError, match="Use one of"):
        fuse(own, head="nothing")


def test_out_is_where_predictions_of_rows_go(own):
    predict(own, "crossattn-1")
    parquet = (own.root / "predictions.parquet").read_bytes()
    made = predict(own, "crossattn-1", split="val", out=own.root / "val.csv").files
    assert made == [own.root / "val.csv"]
    assert predict(own, "crossattn-1", split="val").files == [
        own.root / "predictions-val.csv",
        own.root / "predictions-val.parquet",
    ]
    assert (own.root / "predictions.parquet").read_bytes() == parquet
    assert pq.read_table(own.root / "predictions-val.parquet").num_rows == len(own.manifest.rows("val"))
    assert not (own.root / "predictions.csv").exists()


def test_predictions_that_a_person_changed_stay(own, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("id,caption\na,a red circle\n", encoding="utf-8")
    for out in (new, own.root / "mmfeat.toml", own.root / "manifest.parquet"):
        kept = out.read_bytes()
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="never written over"):
                predict_new(str(new), project=own, run="text", out=out, overwrite=overwrite)
        assert out.read_bytes() == kept
    predict(own, "crossattn-1")
    file = own.root / "submission.csv"
    file.write_text(file.read_text(encoding="utf-8") + "x", encoding="utf-8")
    with pytest.raises(OutputError, match=r"submission.csv: has been changed since mmfeat wrote it.*--overwrite"):
        predict(own, "crossattn-1")
    assert file.read_text(encoding="utf-8").endswith("x")
    predict(own, "crossattn-1", overwrite=True)
    assert not file.read_text(encoding="utf-8").endswith("x")


def test_evaluations_that_a_person_changed_stay(own):
    (file,) = evaluate(own, ["crossattn-1"]).files
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="has been changed"):
        evaluate(own, ["crossattn-1"])
    assert file.read_text(encoding="utf-8") == "mine"
    evaluate(own, ["crossattn-1"], overwrite=True)
    assert file.read_text(encoding="utf-8") != "mine"


def test_an_init_log_of_a_persons_own_stays(small_source, tmp_path):
    from mmfeat.project.initialisation import init

    table = tmp_path / "s.csv"
    table.write_text("id,caption,labels\na,x,p\nb,y,q\n", encoding="utf-8")
    log = tmp_path / "init.log"
    log.write_text("mine", encoding="utf-8")
    init(tmp_path, str(table), val=0.0)
    assert log.read_text(encoding="utf-8") == "mine"  # nothing to note, and not ours to remove
    table.write_text("id,caption,labels\na,x,p\nb,y,q\nc,z,q\n", encoding="utf-8")
    changed = init(tmp_path)
    assert "init.log" in changed.written
    other = tmp_path / "other"
    other.mkdir()
    (other / "t.csv").write_bytes(b"id,caption,labels\na,x\xff,p\nb,y,q\n")
    (other / "init.log").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"init.log: exists.*--overwrite"):
        init(other, str(other / "t.csv"), val=0.0)
    assert not (other / "mmfeat.toml").exists()
    init(other, str(other / "t.csv"), val=0.0, overwrite=True)
    assert (other / "mmfeat.toml").exists()
