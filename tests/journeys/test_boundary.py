"""Invariants across the wall."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.edits import edited, save

from mmfeat.common.errors import MmfeatError, RunError, StoreError
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.inference.logits import logits_of, run_logits
from mmfeat.inference.run_ranking import best_run, ranked_runs
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.project.staleness import is_current
from mmfeat.runs.run import all_runs
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import selftrain


@pytest.fixture
def unreadable(monkeypatch):
    """From here on no image can be read."""

    def refuse(self, location):
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageSources, "read", refuse)


def test_every_row_is_accounted_for_while_encoding(project):
    m = project.manifest
    captions = m.captions.copy()
    captions[[3, 4, 5]] = captions[2]
    captions[6] = " "
    for one in extract(save(project, captions=captions)).encoders:
        assert one.cached + one.encoded + one.repeated + one.unreadable + one.absent == m.n_samples
        assert one.repeated >= (3 if one.name == "text" else 0)


def test_an_embedding_that_is_no_number_is_one_line_with_its_row(project, monkeypatch):
    from mmfeat.encoders.families.image_network import ImageEncoder

    forward = ImageEncoder.forward
    monkeypatch.setattr(ImageEncoder, "forward", lambda self, batch: forward(self, batch) * float("nan"))
    with pytest.raises(StoreError, match=rf"encoder 'image', row '{project.manifest.ids[0]}': .*not finite"):
        extract(project)


def test_every_row_is_accounted_for(extracted):
    result = extract(extracted)
    for one in result.encoders:
        assert one.cached + one.unreadable + one.absent == extracted.manifest.n_samples
        assert one.encoded == 0


def test_heads_and_rounds_touch_no_pixel(extracted, unreadable):
    project = Project(extracted.root)
    fuse(project)
    fuse(project, "concat")
    ensemble(project, ["fm3"])
    selftrain(project)
    predict(project)


def test_new_labels_and_classes_encode_nothing(extracted, unreadable):
    m = extracted.manifest
    labels = np.concatenate([m.labels, m.labels[:, :1]], axis=1)
    project = save(extracted, labels=labels, classes=(*m.classes, "new"))
    results = finetune(project, freeze=True).encoders
    assert all("0 encoded" in one.note for one in results)
    result = extract(Project(project.root))
    assert all(one.encoded == 0 for one in result.encoders)
    table = Project(project.root).feature_table(["image", "text"])
    assert table.logits["image"].shape[1] == len(m.classes) + 1


def test_a_changed_size_encodes_that_encoder_alone(extracted):
    project = edited(extracted, "size = 32", "size = 40")
    with pytest.raises(
        MmfeatError, match=r"no embeddings of 'image' for 60 of 60 rows \(preprocessing changed.*Run: mmfeat extract"
    ):
        fuse(project)
    image, text = extract(project).encoders
    assert image.encoded == 80
    assert text.encoded == 0


def test_the_order_of_the_manifest_does_not_matter(extracted):
    order = np.random.default_rng(0).permutation(extracted.manifest.n_samples)
    before = extracted.feature_table(["image", "text"])
    m = extracted.manifest
    shuffled = save(extracted, **{n: getattr(m, n)[order] for n in ("ids", "images", "captions", "labels", "split")})
    after = shuffled.feature_table(["image", "text"])
    for name in ("image", "text"):
        assert np.array_equal(before.embeddings[name][:][order], after.embeddings[name][:])
        assert np.array_equal(before.logits[name][:][order], after.logits[name][:])
    first = fuse(extracted)
    second = fuse(shuffled)
    assert first.made
    assert not second.made  # the same rows and labels: the same run


def test_logits_in_the_store_are_those_of_the_stored_embeddings(extracted):
    table = extracted.feature_table(["image"])
    output = extracted.output(extracted.identity("image"))
    present = table.present["image"]
    expected = output.logits(np.asarray(table.embeddings["image"][present]))
    assert np.allclose(table.logits["image"][present], expected, atol=1e-5)


def test_unreadable_and_missing_images_stop_nothing_and_shift_nothing(project, tmp_path):
    m = project.manifest
    sources = ImageSources([project.config.path(project.config.data.source) / "images.zip"])
    folder = tmp_path / "images"
    folder.mkdir()
    for row, name in enumerate(m.images):
        data = sources.read(sources.locate(name))
        if row == 3:
            data = data[:100]
        elif row == 4:
            data = b""
        elif row == 5:
            continue
        (folder / name).write_bytes(data)
    broken = edited(project, "[split]", f"images = {json.dumps(str(folder))}\n[split]")
    result = extract(broken, ["image"])
    first = result.encoders[0]
    assert (first.unreadable, first.absent, first.repeated) == (2, 1, 0)
    assert first.cached + first.encoded == 77
    again = extract(broken, ["image"]).encoders[0]
    assert (again.cached, again.unreadable, again.absent) == (77, 2, 1)
    assert set(result.reasons["image"]) == {m.ids[3], m.ids[4]}
    table = broken.feature_table(["image"])
    assert np.flatnonzero(~table.present["image"]).tolist() == [3, 4, 5]
    assert extract(Project(broken.root), ["image"]).encoders[0].encoded == 0  # not tried again, and not forgotten


def test_an_image_that_changed_is_encoded_again_and_no_other(project, tmp_path):
    sources = ImageSources([project.config.path(project.config.data.source) / "images.zip"])
    folder = tmp_path / "images"
    folder.mkdir()
    names = list(project.manifest.images)
    for name in names:
        (folder / name).write_bytes(sources.read(sources.locate(name)))
    own = edited(project, "[split]", f"images = {json.dumps(str(folder))}\n[split]")
    assert extract(own, ["image"]).encoders[0].encoded == 80
    (folder / names[7]).write_bytes((folder / names[8]).read_bytes() + b"\0")
    again = extract(Project(own.root), ["image"]).encoders[0]
    assert (again.cached, again.encoded) == (79, 1)
    (folder / names[9]).rename(folder / "elsewhere.jpg")
    images = own.manifest.images.copy()
    images[9] = "elsewhere.jpg"
    assert extract(save(Project(own.root), images=images), ["image"]).encoders[0].encoded == 0


def test_an_ensemble_of_one_is_the_identity(extracted):
    run = fuse(extracted).run
    one = ensemble(extracted, [run.name]).run
    rows = np.arange(extracted.manifest.n_samples)
    a, b = (run_logits(extracted, r, rows).logits for r in (run, one))
    assert np.array_equal(a, b)


def test_fm1_is_the_mean_of_both_logits(extracted):
    run = ensemble(extracted, ["fm1"]).run
    rows = extracted.manifest.rows("all")
    table = extracted.feature_table(["image", "text"])
    both = table.present["image"] & table.present["text"]
    mean = (table.logits["image"][:] + table.logits["text"][:]) / 2
    got = run_logits(extracted, run, rows).logits
    assert np.allclose(got[both], mean[both], atol=1e-5)
    alone = table.present["image"] & ~table.present["text"]
    assert np.allclose(got[alone], table.logits["image"][:][alone], atol=1e-5)


def test_a_run_predicts_what_it_kept(extracted):
    run = fuse(extracted).run
    kept = run.logits()
    at = {str(i): n for n, i in enumerate(extracted.manifest.ids)}
    rows = np.array([at[str(i)] for i in kept.ids])
    computed = run_logits(extracted, run, rows).logits
    assert np.allclose(kept.logits, computed, atol=1e-5)


def test_a_run_whose_features_are_gone_still_scores_on_val_and_says_what_it_cannot(extracted):
    run = fuse(extracted).run
    before = ranked_runs(extracted)
    shutil.rmtree(extracted.root / "features")
    project = Project(extracted.root)
    again = next(line for line in ranked_runs(project) if line.name == run.name)
    old = next(line for line in before if line.name == run.name)
    assert again.metrics.scores.samples_f1 == pytest.approx(old.metrics.scores.samples_f1)
    with pytest.raises(MmfeatError, match=r"no embeddings of .*Run: mmfeat extract"):
        predict(project, run.name)


def test_a_run_of_other_encoders_is_stale_and_not_the_best(extracted):
    run = fuse(extracted).run
    assert is_current(extracted, run)
    project = edited(extracted, "size = 32", "size = 40")
    assert not is_current(project, run)
    line = next(line for line in ranked_runs(project) if line.name == run.name)
    assert line.state.startswith("stale")
    assert line.metrics is not None
    with pytest.raises(RunError, match="stale"):
        best_run(project)


def test_a_run_trained_on_rows_that_are_val_today_is_not_ranked(extracted):
    run = fuse(extracted).run
    m = extracted.manifest
    split = m.split.copy()
    split[m.rows("train")[:5]] = "val"
    project = save(extracted, split=split)
    line = next(line for line in ranked_runs(project) if line.name == run.name)
    assert line.metrics is None
    assert "not ranked" in line.state


def test_fuse_needs_only_the_rows_it_reads(project):
    labelled = np.concatenate([project.manifest.rows("train"), project.manifest.rows("val")])
    extract(project, rows=labelled)
    fuse(Project(project.root))
    with pytest.raises(MmfeatError, match="Run: mmfeat extract"):
        selftrain(Project(project.root))


def test_val_rows_of_a_selftraining_are_never_trained_on(extracted):
    run = selftrain(extracted).run
    kept = run.logits()
    val = set(extracted.manifest.ids[extracted.manifest.rows("val")])
    roles = dict(zip(kept.ids, kept.roles.tolist(), strict=True))
    assert {roles[i] for i in val} == {2}
    unlabelled = extracted.manifest.ids[extracted.manifest.rows("unlabelled")]
    assert {roles[i] for i in unlabelled} <= {0, 3}


def test_a_selftraining_reads_no_pixels_and_writes_its_rounds(extracted, monkeypatch):
    def unreadable(*args, **kwargs):
        raise OSError

    monkeypatch.setattr("PIL.Image.open", unreadable)
    run = selftrain(extracted).run
    lines = (run.folder / "rounds.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(run.record["rounds"])
    assert lines[0].endswith(",".join(f"yes_{name}" for name in run.classes))
    assert (run.folder / "rounds.png").is_file()
    assert not (extracted.runs_folder / ".resume-selftrain").exists()
    assert run.record["ended"] in ("reverted", "no_change", "max_iter")


def test_splits_stay_when_the_source_grows(project):
    from mmfeat.project.initialisation import init

    before = dict(zip(project.manifest.ids, project.manifest.split, strict=True))
    source_folder = project.root.parent / "grown"
    shutil.copytree(project.config.path(project.config.data.source), source_folder)
    with (source_folder / "train.csv").open("a", encoding="utf-8") as file:
        for i in range(20):
            file.write(f"new{i}.jpg,circle star,a new one\n")
    path = project.root / "mmfeat.toml"
    path.write_text(path.read_text().replace(str(project.config.data.source), str(source_folder), 1))
    result = init(project.root)
    after = dict(zip(result.manifest.ids, result.manifest.split, strict=True))
    assert {i: after[i] for i in before} == before
    assert len(after) == len(before) + 20
    assert sum(split == "val" for i, split in after.items() if i.startswith("new")) == 5
    assert "20 missing" in result.summary


@pytest.fixture
def with_test(project_folder):
    """A project with a test part, frozen outputs and all features; one unlabelled row stands with a test row."""
    from mmfeat.project.initialisation import init

    (project_folder / "manifest.parquet").unlink()
    project = edited(Project(project_folder), "val = 0.25", "val = 0.25\ntest = 0.25")
    project = edited(edited(project, "seeds = 2", "seeds = 1"), "rounds = 2", "rounds = 1")
    init(project.root)
    split = Project(project.root).manifest.split.copy()
    split[Project(project.root).manifest.rows("unlabelled")[0]] = "test"
    project = save(Project(project.root), split=split)
    finetune(project, freeze=True)
    extract(Project(project.root))
    return Project(project.root)


def test_nothing_but_evaluate_reads_the_labels_of_test_rows(with_test):
    """Another project where they are all wrong makes the same outputs, heads, ensembles and rounds."""
    m = with_test.manifest
    labels, test = m.labels.copy(), m.rows("test")
    labels[test] = 1 - labels[test]
    other = with_test.root.parent / "other"
    shutil.copytree(with_test.root, other)
    shutil.rmtree(other / "checkpoints")
    wrong = save(Project(other), labels=labels)
    finetune(wrong, freeze=True)
    found = []
    for project in (Project(with_test.root), Project(other)):
        extract(project)
        names = [fuse(project).run.name, selftrain(project).run.name, ensemble(project, ["image", "text"]).run.name]
        scored = [(line.name, line.state, line.metrics.scores.samples_f1) for line in ranked_runs(project)]
        everything = np.arange(len(m.ids))
        found.append((names, scored, [logits_of(project, n, everything).logits for n in ("image", "text", *names)]))
    assert found[0][:2] == found[1][:2]
    for a, b in zip(found[0][2], found[1][2], strict=True):
        assert np.array_equal(a, b)
    figures = [evaluate(Project(root), ["image"], split="test").metrics["image"] for root in (with_test.root, other)]
    assert figures[0].scores.samples_f1 != figures[1].scores.samples_f1


def test_unlabelled_rows_that_stand_with_test_rows_are_not_pseudo_labelled(with_test):
    m = with_test.manifest
    unlabelled = m.rows("unlabelled")
    beside = m.ids[unlabelled[m.split[unlabelled] == "test"]]
    assert len(beside) == 1
    done = selftrain(with_test)
    assert done.n_unlabelled == len(unlabelled) - 1
    learned = done.run.learned()
    for rows in (beside, m.ids[m.rows("test")]):
        assert not learned.among(rows)[0].any()
        assert not learned.among(rows)[1].any()
    roles = dict(zip(done.run.logits().ids, done.run.logits().roles.tolist(), strict=True))
    assert roles[beside[0]] == 0


def test_two_runs_made_at_once_get_two_names(extracted, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from mmfeat.common.files import publish_folder

    def make(number):
        staged = tmp_path / f".tmp-{number}"
        staged.mkdir()
        (staged / "x").write_text(str(number))
        return publish_folder(staged, tmp_path, "run").name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(make, range(24)))
    assert len(set(names)) == 24


def test_sources_share_one_namespace(extracted):
    rows = extracted.manifest.rows("val")
    run = fuse(extracted).run
    assert logits_of(extracted, "text", rows).name == "text"
    assert logits_of(extracted, run.name, rows).name == run.name
    with pytest.raises(RunError, match="no run or encoder 'texxt'"):
        logits_of(extracted, "texxt", rows)
    assert [r.name for r in all_runs(extracted.runs_folder)] == [run.name]


def test_images_that_are_gone_keep_their_features_on_the_right_and_it_is_said(project, tmp_path, capsys):
    """Left of the wall they are absent; an encoder that has not encoded them does without."""
    sources = ImageSources([project.config.path(project.config.data.source) / "images.zip"])
    folder = tmp_path / "images"
    folder.mkdir()
    for name in project.manifest.images:
        (folder / name).write_bytes(sources.read(sources.locate(name)))
    project = edited(project, "[split]", f"images = {json.dumps(str(folder))}\n[split]")
    finetune(project, freeze=True)
    extract(Project(project.root))
    run = fuse(Project(project.root)).run
    before = Project(project.root).feature_table(["image"])
    for name in project.manifest.images[:30]:
        (folder / name).unlink()
    capsys.readouterr()
    after = Project(project.root)
    assert np.array_equal(after.feature_table(["image"]).present["image"], before.present["image"])
    assert np.array_equal(after.feature_table(["image"]).embeddings["image"][:], before.embeddings["image"][:])
    again = fuse(after)
    assert (again.run.name, again.made) == (run.name, False)
    assert capsys.readouterr().err.count("30 rows lost the image since the last extract") == 1
    assert extract(Project(project.root), ["image"]).encoders[0].absent == 30
    assert int(Project(project.root).feature_table(["image"]).present["image"].sum()) == 80
    other = edited(project, "size = 32", "size = 40")
    assert extract(other, ["image"]).encoders[0].encoded == 50
    assert int(Project(project.root).feature_table(["image"]).present["image"].sum()) == 50
