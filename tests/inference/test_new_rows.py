"""Predictions of samples that no project knows: the same with a store and without, one bad row disturbing no other."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.images.kept_bytes import KeptBytes
from mmfeat.data.sample_kinds import kind_of_sample
from mmfeat.project.project import Project
from mmfeat.workflows.predict import predict_new


@pytest.fixture(scope="module")
def table(small_source, tmp_path_factory):
    """A table of unlabelled rows with two bad ones, its images in a folder."""
    folder = tmp_path_factory.mktemp("new")
    rows = list(csv.DictReader((small_source / "test.csv").open(encoding="utf-8")))[:6]
    with zipfile.ZipFile(small_source / "images.zip") as archive:
        archive.extractall(folder / "photos")
    path = folder / "new.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Caption"])
        writer.writerows([row["ImageID"], row["Caption"]] for row in rows)
        writer.writerows([["gone.png", "a red circle"], ["broken.png", "two stars"]])
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    return path


def predicted(table, **where):
    return predict_new(str(table), images=(str(table.parent / "photos"),), **where)


def test_a_project_and_its_exported_model_agree(table, own, exported):
    inside = predicted(table, project=own, run="fm3-1")
    outside = predicted(table, model=str(exported))
    assert np.abs(inside.predictions.probs - outside.predictions.probs).max() < 1e-4
    for name in ("image", "text"):
        assert np.allclose(
            inside.predictions.unimodal[name], outside.predictions.unimodal[name], atol=1e-4, equal_nan=True
        )
    for found in (inside, outside):
        assert list(found.errors) == ["gone.png", "broken.png"]
        assert found.errors["gone.png"] == "no such image"
        assert "UnidentifiedImageError" in found.errors["broken.png"]
        assert len(found.rows.ids) == len(found.predictions) == 8
        assert found.predictions.known.all()  # by their captions


def test_a_new_image_is_read_once_for_its_key_and_its_pixels(table, own, monkeypatch):
    read, reads, read_bytes = ImageSources.read, [], KeptBytes.take
    monkeypatch.setattr(ImageSources, "read", lambda sources, place: reads.append(place.file) or read(sources, place))
    found = predicted(table, project=own, run="fm3-1")
    assert len(reads) == len(set(reads)) == 7
    shutil.rmtree(own.root / "features")
    monkeypatch.setattr(KeptBytes, "take", lambda kept, row: read_bytes(kept, row) and None)  # as if there were no room
    again = predicted(table, project=Project(own.root), run="fm3-1")
    assert len(reads) == 3 * 7
    assert np.allclose(found.predictions.probs, again.predictions.probs, atol=1e-4)


def test_features_go_into_the_store_and_the_project_stays_as_it_is(table, own):
    spec = {name: own.identity(name) for name in own.config.encoder}["text"].spec
    before = {p: p.read_bytes() for p in own.root.rglob("*") if p.is_file() and "features" not in p.parts}
    n_before = len(own.store.encoder(spec).series["embeddings"].index.keys) if own.feature_table(["text"]) else 0
    first = predicted(table, project=own, run="fm3-1")
    project = Project(own.root)
    project.feature_table(["text"])
    assert len(project.store.encoder(spec).series["embeddings"].index.keys) > n_before
    again = predicted(table, project=Project(own.root), run="fm3-1")
    assert np.array_equal(first.predictions.probs, again.predictions.probs)
    after = {p: p.read_bytes() for p in own.root.rglob("*") if p.is_file() and "features" not in p.parts}
    assert after == before


def test_rows_of_the_project_itself_are_predicted_as_they_are(trained, small_source, own):
    from mmfeat.common.labels import sigmoid
    from mmfeat.inference.logits import logits_of

    found = predict_new(
        str(small_source / "test.csv"), images=(str(small_source / "images.zip"),), project=own, run="fm3-1"
    )
    rows = own.manifest.rows("unlabelled")
    assert found.rows.ids == own.manifest.ids[rows].tolist()
    assert np.abs(found.predictions.probs - sigmoid(logits_of(own, "fm3-1", rows).logits)).max() < 1e-5


def test_a_name_that_two_images_have_is_a_bad_row(table, exported, own, tmp_path):
    photos = shutil.copytree(table.parent / "photos", tmp_path / "photos")
    name = next(csv.reader([table.read_text(encoding="utf-8").splitlines()[1]]))[0]
    shutil.copytree(photos, photos / "copy")
    for where in ({"model": str(exported)}, {"project": own, "run": "fm3-1"}):
        found = predict_new(str(table), images=(str(photos),), **where)
        assert "exists 2 times" in found.errors[name]
        assert len(found.predictions) == 8


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("top_k", [0, 2])
def test_every_format_says_the_same(table, exported, tmp_path, form, top_k):
    found = predicted(table, model=str(exported))
    path = tmp_path / f"p.{form}"
    found.write(path, format=form, top_k=top_k)
    if form == "csv":
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
        labels = [row["labels"].split() for row in rows]
        assert [row["ImageID"] for row in rows] == found.rows.ids
        assert ("probabilities" in rows[0]) == bool(top_k)
    elif form == "jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        labels = [row["labels"] for row in rows]
        assert "no such image" in rows[6]["error"]
        assert np.allclose([list(row["probabilities"].values()) for row in rows], found.predictions.probs, atol=1e-5)
    else:
        rows = pq.read_table(path).to_pydict()
        labels = rows["labels"]
        first = found.predictions.classes[0]
        assert np.allclose(rows[f"p_{first}"], found.predictions.probs[:, 0])
        assert rows["error"][6] == "no such image"
    wanted = [[label for label, _ in one.top(2)] for one in found.predictions] if top_k else found.predictions.labels
    assert labels == wanted


def test_columns_are_named_where_they_are_not_found(tmp_path, exported):
    path = tmp_path / "odd.csv"
    path.write_text("nummer,worte\n7,a red circle\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column of images or captions"):
        predict_new(str(path), model=str(exported))
    found = predict_new(str(path), columns={"id": "nummer", "caption": "worte"}, model=str(exported))
    assert found.rows.ids == ["7"]
    with pytest.raises(ConfigError, match="no role 'text'"):
        predict_new(str(path), columns={"text": "worte"}, model=str(exported))


def test_one_picture_and_one_caption(table, exported, own):
    picture = next(str(p) for p in (table.parent / "photos").rglob("*.*") if p.name != "broken.png")
    for where in ({"model": str(exported)}, {"project": own}):
        both = predict_new(picture, caption="a red circle", **where)
        assert len(both.predictions) == 1
        assert set(both.predictions[0].unimodal) == {"image", "text"}
        assert set(predict_new("", caption="a red circle", **where).predictions[0].unimodal) == {"text"}
    with pytest.raises(DataError, match="no such image"):
        predict_new("nowhere/else.png", model=str(exported))
    with pytest.raises(DataError, match="--caption is for one picture"):
        predict_new(str(table), caption="a", model=str(exported))


def test_without_project_and_model_it_says_what_to_type():
    with pytest.raises(ConfigError, match="--model DIR"):
        predict_new("", caption="a")


def test_a_run_is_told_from_a_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo").write_bytes(b"")
    assert all(map(kind_of_sample, ("new.csv", "photo", "gone.parquet", "a/b.JPG")))
    assert not any(map(kind_of_sample, ("crossattn-1", "fm3-1", "../../etc")))


def test_the_command_writes_a_file_or_shows_one_item(table, exported, trained, tmp_path):
    done = run_cli(
        "predict", str(table), "--images", str(table.parent / "photos"), "--model", str(exported), cwd=tmp_path
    )
    assert "gone.png: image: no such image" in done.stdout
    assert done.stdout.rstrip().endswith(f"mmfeat serve {exported}")
    assert len((tmp_path / "new-predictions.csv").read_text(encoding="utf-8").splitlines()) == 9
    one = run_cli("predict", "--caption", "a circle", "--model", str(exported), "--top-k", "2", cwd=tmp_path)
    assert "text alone" in one.stdout
    assert len(one.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.csv", "b.csv", "--model", "m"], 2, "one run, and one table or picture"),
        (["--model", "m"], 2, "what to predict?"),
        (["crossattn-1", "a.csv", "--model", "m"], 2, "--model is used without a run"),
        (["a.csv", "--column", "caption", "--model", "m"], 1, "write ROLE=NAME"),
        (["a.csv", "--model", "nowhere"], 1, "no such folder"),
        (["a.csv", "--threshold", "2", "--model", "m"], 1, "from 0 to 1"),
        (["a.csv"], 1, "no mmfeat.toml here"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, code, message):
    done = run_cli("predict", *arguments, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_imported_embeddings_count_where_they_have_the_sample(own, tmp_path):
    from mmfeat.workflows.fuse import fuse
    from mmfeat.workflows.store_import import import_embeddings

    ids = own.manifest.ids
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(len(ids), 6)).astype(np.float32))
    (tmp_path / "ids.csv").write_text("id\n" + "\n".join(ids), encoding="utf-8")
    table = import_embeddings(own, "speech", tmp_path / "e.npy", tmp_path / "ids.csv").table
    toml = own.root / "mmfeat.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "\n" + table, encoding="utf-8")
    project = Project(own.root, {"fuse.inputs": ["text", "speech"]})
    run = fuse(project, "concat").run.name
    alone = predict_new("", caption="a red circle", project=project, run=run)
    assert set(alone.predictions[0].unimodal) == {"text"}
    new = tmp_path / "new.csv"
    new.write_text(f"id,caption\n{ids[0]},a red circle\nelse,a red circle\n", encoding="utf-8")
    first, second = predict_new(str(new), project=project, run=run).predictions
    assert set(first.unimodal) == {"text", "speech"}
    assert second.probabilities == alone.predictions[0].probabilities


def test_a_sample_of_which_the_model_reads_nothing_is_refused(table, own, tmp_path):
    from mmfeat.workflows.export import export

    folder = export(own, "text", tmp_path / "text").folder
    picture = next(str(p) for p in (table.parent / "photos").rglob("*.*") if p.name != "broken.png")
    with pytest.raises(DataError, match="text reads captions, but the samples to predict have none"):
        predict_new(picture, model=str(folder))
    assert len(predict_new(picture, caption="a red circle", model=str(folder)).predictions) == 1


def test_images_of_which_no_row_names_one_are_an_error(table, exported, tmp_path):
    (tmp_path / "else").mkdir()
    with zipfile.ZipFile(tmp_path / "else.zip", "w") as archive:
        archive.writestr("other.png", b"")
    for place in ("else", "else.zip"):
        with pytest.raises(DataError, match=r"none of|no image"):
            predict_new(str(table), images=(str(tmp_path / place),), model=str(exported))


def test_the_format_is_that_of_the_files_name():
    from mmfeat.workflows.predict import format_of

    assert [format_of("a.jsonl", None), format_of("", "parquet"), format_of("a.txt", None)] == [
        "jsonl",
        "parquet",
        "csv",
    ]
    with pytest.raises(ConfigError, match="two formats"):
        format_of("a.jsonl", "csv")
