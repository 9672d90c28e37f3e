"""What is scored, ranked, ensembled and predicted is of today's classes, encoders and rows; and what it says is so."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from helpers.edits import edited, line_of, moved, save, typed, with_blank_captions

from mmfeat.common.errors import DataError, MmfeatError, RunError, StoreError
from mmfeat.inference.logits import logits_of, run_logits, training_prior
from mmfeat.inference.next_commands import after_evaluate, after_fuse, after_runs, to_predict
from mmfeat.inference.run_ranking import best_run, ranked_runs
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import metrics_of
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample, is_current, lineage_of, state_of
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import selftrain


def without_val(project: Project) -> Project:
    return moved(project, "val", "train", project.manifest.n_samples)


# classes


def test_an_output_of_other_classes_is_refused_everywhere(extracted):
    run = ensemble(extracted, ["fm1"]).run
    project = save(extracted, classes=(*extracted.manifest.classes[:-1], "renamed"))
    assert not project.feature_table(["image"]).logits  # its columns would be of no class of the table
    for ask in (
        lambda: logits_of(project, "image", project.manifest.rows("val")),
        lambda: ensemble(project, ["fm1"]),
        lambda: evaluate(project, ["text"]),
    ):
        with pytest.raises(RunError, match=r"for other classes.*Run: mmfeat finetune (image|text) --freeze"):
            ask()
    assert not is_current(project, run)
    line = line_of(project, "image")
    assert line.metrics is None
    assert "other classes" in line.state
    labels = [one.label for one in fuse(project, "concat").lines]
    assert labels[1:3] == ["image, linear head", "text, linear head"]


def test_a_class_more_is_no_traceback(extracted):
    m = extracted.manifest
    labels = np.concatenate([m.labels, m.labels[:, :1]], axis=1)
    project = save(extracted, labels=labels, classes=(*m.classes, "new"))
    assert "other classes" in typed(project, "runs")
    finetune(project, freeze=True)
    extract(Project(project.root))
    assert line_of(Project(project.root), "image").metrics is not None


# what was learned from


def test_ensembles_and_encoders_trained_on_rows_that_are_val_today_are_not_ranked(extracted):
    inner = ensemble(extracted, ["fm1"]).run.name
    outer = ensemble(extracted, [inner, "image"]).run.name
    assert not in_sample(extracted, outer, extracted.manifest.rows("val"))
    project = moved(extracted, "train", "val", 5)
    for name in (inner, outer, "image", "text"):
        line = line_of(project, name)
        assert line.metrics is None, name
        assert line.state == "not ranked: trained on rows that are val now"
    with pytest.raises(RunError, match=r"fm1-1 \(not ranked: trained on rows that are val now\)"):
        best_run(project)
    run = fuse(project).run  # frozen encoders: their embeddings have seen no label
    assert line_of(project, run.name).state == "current"
    assert best_run(project).name == run.name


def test_a_head_on_an_encoder_that_was_fine_tuned_on_val_rows_of_today_is_not_ranked(project):
    finetune(project, ["image"])
    extract(Project(project.root))
    project = moved(Project(project.root), "train", "val", 5)
    run = fuse(project, "concat").run
    assert "not ranked" in line_of(project, run.name).state
    assert lineage_of(project, run.name).among(project.manifest.ids[project.manifest.rows("val")])[0].sum() == 5
    with pytest.raises(RunError, match="not ranked"):
        best_run(project)


def test_evaluate_looks_before_it_says_that_nothing_was_trained_on_the_rows(extracted):
    name = fuse(extracted).run.name
    project = moved(extracted, "train", "test", 4)
    result = evaluate(project, [name, "text"], split="test")
    ids = project.manifest.ids[project.manifest.rows("test")].tolist()
    assert result.trained == {name: ids, "text": ids}
    text = typed(project, "evaluate", name, "--split", "test")
    assert f"{name}: in-sample for 4 of 4 rows" in text
    assert ids[0] in text
    assert "Nothing was trained" not in text
    project = moved(extracted, "val", "test", 6)
    text = typed(project, "evaluate", name, "--split", "test")
    assert f"{name}: epochs or rounds were selected on 6 of 6 rows" in text
    assert "Nothing was trained" not in text
    text = typed(project, "evaluate", name, "--split", "train")
    assert f"{name}: in-sample for 45 of 45 rows" in text
    project = moved(project, "train", "val", 2)
    assert f"{name}: in-sample for 2 of 11 rows" in typed(project, "evaluate", name)


def test_an_encoder_that_is_better_than_every_run_is_named_where_the_best_run_is_used(extracted):
    untrained = Project(extracted.root, {"fuse.linear.epochs": 1, "fuse.linear.lr": 1e-9, "metric": "map"})
    run = fuse(untrained, "linear").run
    first, *_ = ranked_runs(untrained)
    assert first.run is None
    about = f"run {run.name}, the best run on val (encoder {first.name} alone is better there)"
    assert about in typed(extracted, "predict", "--set", "metric=map")
    fuse(extracted, "concat")
    ensemble(extracted, ["image", "text"])
    ranked = ranked_runs(extracted)
    named = "" if ranked[0].run is not None else f" (encoder {ranked[0].name} alone is better there)"
    best = next(line for line in ranked if line.run is not None)
    assert f"run {best.name}, the best run on val{named};" in typed(extracted, "predict")
    assert typed(extracted, "predict", "image").startswith("encoder image; threshold")
    assert typed(extracted, "review", "image", "--n", "2").startswith("encoder image\n")


def test_of_equal_runs_the_first_is_the_best(extracted):
    run = fuse(extracted).run
    one = ensemble(extracted, [run.name]).run
    assert line_of(extracted, one.name).metrics.scores.loss == line_of(extracted, run.name).metrics.scores.loss
    assert best_run(extracted).name == run.name


def test_nothing_was_trained_on_test_rows_that_were_test_before(extracted):
    project = moved(extracted, "train", "test", 6)
    finetune(project, freeze=True)
    extract(Project(project.root))
    name = fuse(Project(project.root)).run.name
    text = typed(project, "evaluate", name, "--split", "test")
    assert "Nothing was trained or selected on these rows." in text


# rows without a modality


def test_a_row_without_the_modality_gets_the_training_rows_log_odds(extracted):
    project, rows = with_blank_captions(extracted)
    found = logits_of(project, "text", rows)
    assert not found.known.any()
    assert np.allclose(found.logits, training_prior(project))
    results = finetune(project, ["text"], freeze=True).encoders
    extract(Project(project.root))
    project = Project(project.root)
    assert evaluate(project, ["text"]).metrics["text"].scores.loss == pytest.approx(
        results[0].metrics.scores.loss, rel=1e-6
    )
    again = finetune(project, ["text"], freeze=True).encoders
    assert not again[0].made
    assert again[0].metrics.scores.loss == pytest.approx(results[0].metrics.scores.loss, rel=1e-6)


# ensembles


def test_a_nested_ensemble_is_stale_with_its_member_and_counts_a_head_once(extracted):
    crossattn = fuse(extracted).run
    fm3 = ensemble(extracted, ["fm3"]).run
    both = ensemble(extracted, [crossattn.name, fm3.name]).run
    assert both.size_mb == pytest.approx(fm3.size_mb)
    assert both.encoders["image"]["output_key"] is not None
    assert is_current(extracted, both)
    project = edited(extracted, "[fuse.linear]\nepochs = 3", "[fuse.linear]\nlr = 0.01\nepochs = 3")
    finetune(project, freeze=True)
    project = Project(project.root)
    assert "linear probe of encoder image has changed" in state_of(project, both)
    shutil.rmtree(extracted.runs_folder / fm3.name)
    extract(project)
    one = ensemble(project, [crossattn.name]).run
    assert is_current(project, one)
    (crossattn.folder / "head.safetensors").unlink()
    assert f"its member {crossattn.name}: " in state_of(project, one)


def test_fm2_is_half_fm1_and_half_the_head_on_every_row(extracted):
    project, rows = with_blank_captions(extracted)
    head = fuse(project, "concat").run
    run = ensemble(project, ["fm2"]).run
    assert [m["name"] for m in run.record["members"]] == ["fm1-1", head.name]
    image, concat = logits_of(project, "image", rows).logits, logits_of(project, head.name, rows).logits
    assert np.allclose(run_logits(project, run, rows).logits, (image + concat) / 2, atol=1e-5)


# the rule that chooses epochs


def test_a_checkpoint_is_made_anew_for_another_rule(extracted):
    again = finetune(extracted, ["text"], freeze=True).encoders
    assert not again[0].made
    project = Project(extracted.root, {"predict.threshold": 0.3})
    results = finetune(project, ["text"], freeze=True).encoders
    assert results[0].made
    history = results[0].checkpoint.record["history"]
    best = results[0].checkpoint.record["best_epoch"]
    assert history[best - 1]["val_samples-f1"] == pytest.approx(results[0].metrics.scores.samples_f1, abs=0.03)


def test_fine_tuning_chooses_by_the_projects_rule(project):
    for threshold in (0.0, 1.0):
        rule = Project(project.root, {"predict.threshold": threshold, "predict.empty": "none"})
        results = finetune(rule, ["text"]).encoders
        history = results[0].checkpoint.record["history"]
        assert history[0]["val_samples_f1"] > 0 if threshold == 0 else history[0]["val_samples_f1"] == 0


# self-training beside the supervised head


def test_selftraining_shows_the_supervised_head_and_says_where_nothing_rises(extracted):
    alone = selftrain(extracted)
    assert alone.supervised is None
    assert alone.rises is None
    assert "To make one: mmfeat fuse --head crossattn" in typed(extracted, "selftrain")
    run = fuse(extracted).run
    result = selftrain(extracted)
    assert not result.made
    assert result.supervised == run.name
    assert result.lines[0].label == f"{run.name}, mean"
    before, now = (line_of(extracted, r.name).metrics.scores.samples_f1 for r in (run, result.run))
    assert result.rises == (now > before)
    last = typed(extracted, "selftrain").splitlines()[-1]
    assert (f"no better than {run.name}" in last) == (now <= before)


def test_without_rounds_the_head_is_the_supervised_one_and_nothing_rises(extracted):
    run = fuse(extracted).run
    result = selftrain(Project(extracted.root, {"selftrain.rounds": 0}))
    assert result.rises is False
    assert result.lines[0].samples_f1 == result.lines[-1].samples_f1
    assert f"no better than {run.name}" in typed(extracted, "selftrain", "--rounds", "0").splitlines()[-1]


# logits that a run kept


def test_kept_logits_know_which_rows_had_nothing(extracted):
    project, _ = with_blank_captions(extracted)
    name = ensemble(Project(project.root, {"fuse.inputs": "text,image"}), ["text"]).run.name
    shutil.rmtree(project.root / "features")
    project = Project(project.root)
    found = logits_of(project, name, project.manifest.rows("val"))
    assert (~found.known).sum() == 3


def test_kept_logits_of_an_encoder_that_is_no_longer_in_the_project(extracted):
    name = fuse(Project(extracted.root, {"fuse.inputs": "image", "fuse.head": "linear"})).run.name
    before = logits_of(extracted, name, extracted.manifest.rows("val"))
    toml = (extracted.root / "mmfeat.toml").read_text()
    start, end = toml.index("[encoder.image]"), toml.index("[encoder.text]")
    toml = toml[:start] + toml[start:end].replace("[encoder.image]", '[encoder.photo]\nmodality = "image"') + toml[end:]
    toml = toml.replace("[finetune.image]", "[finetune.photo]").replace("[fuse]", '[fuse]\ninputs = ["photo", "text"]')
    (extracted.root / "mmfeat.toml").write_text(toml)
    shutil.rmtree(extracted.root / "features")
    project = Project(extracted.root)
    after = logits_of(project, name, project.manifest.rows("val"))
    assert np.allclose(before.logits, after.logits, atol=1e-5)
    with pytest.raises(
        MmfeatError, match=r"gone, and encoder image is not in.*: mmfeat fuse --head linear --inputs image"
    ):
        predict(project, name)


def test_rows_that_are_new_want_an_extraction(extracted):
    run = fuse(extracted).run
    captions = extracted.manifest.captions.copy()
    captions[extracted.manifest.rows("unlabelled")[0]] = "never seen before"
    with pytest.raises(MmfeatError, match=r"no embeddings of 'text' for 1 .*Run: mmfeat extract$"):
        predict(save(extracted, captions=captions), run.name)


# damage


def test_a_run_without_its_head_is_made_again(extracted):
    run = fuse(extracted).run
    (run.folder / "head.safetensors").unlink()
    assert "head.safetensors: cannot be read" in typed(extracted, "runs")
    with pytest.raises(RunError, match=r"crossattn-1 \(damaged: .*head.safetensors"):
        predict(extracted)
    again = fuse(extracted)
    assert again.made
    assert predict(extracted).run == again.run.name


def test_one_damaged_record_stops_no_other_run(extracted):
    first, second = fuse(extracted, "concat").run, fuse(extracted).run
    (first.folder / "run.json").write_text("{")
    text = typed(extracted, "runs")
    assert "concat-1" in text
    assert "damaged" in text
    assert predict(extracted).run == second.name
    assert not fuse(extracted).made
    assert "80 rows, 1 run." in typed(extracted, "status")
    from mmfeat.workflows.store import find_unreferenced

    with pytest.raises((RunError, StoreError), match="nothing is removed"):  # what it refers to is not known
        find_unreferenced(extracted)


# hints


def test_hints_are_commands_that_work(extracted):
    run = fuse(extracted).run
    assert after_fuse(extracted, run) == "mmfeat ensemble image text crossattn-1"
    other = Project(extracted.root, {"fuse.inputs": "text,image"})
    assert after_fuse(other, run).startswith("mmfeat ensemble image text crossattn-1")
    none = edited(extracted, 'pretrained = "random"\nsize', 'checkpoint = "none"\npretrained = "random"\nsize')
    assert after_fuse(none, run) == "mmfeat runs"
    with pytest.raises(RunError):
        ensemble(none, ["fm3"])


def test_hints_without_unlabelled_rows(extracted):
    m = extracted.manifest
    labels = m.labels.copy()
    labels[m.rows("unlabelled")] = labels[0]
    project = save(extracted, labels=labels)
    fuse(project)
    assert after_evaluate(project, "val") == "mmfeat runs"
    assert to_predict(project) == ""
    assert after_evaluate(extracted, "val") == "mmfeat selftrain --rounds 5"


def test_without_val_rows(extracted):
    project = without_val(extracted)
    with pytest.raises(RunError, match="no run yet"):
        best_run(project)
    finetune(project, freeze=True)
    extract(Project(project.root))
    older, run = fuse(project, "concat").run, fuse(project).run
    text = typed(project, "runs")
    assert "no logits" not in text
    assert "best samples-f1" not in text
    assert text.index(run.name) < text.index(older.name)
    assert text.splitlines()[-1].endswith(f"Next: mmfeat --project {project.root} predict")
    said = typed(project, "predict")
    assert f"run {run.name}, the newest" in said
    assert "best on val" not in said
    with pytest.raises(DataError, match="no val row"):
        selftrain(project)


def test_runs_that_are_stale_are_not_compared(extracted):
    fuse(extracted)
    project = edited(extracted, "size = 32", "size = 40")
    assert after_runs(project, ranked_runs(project)) == "mmfeat extract"
    extract(project, ["image"])
    project = Project(project.root)
    assert after_runs(project, ranked_runs(project)) == "mmfeat fuse --head crossattn"


# evaluate


def test_evaluate_keeps_a_table_for_each_split_and_takes_each_name_once(extracted):
    name = fuse(extracted).run.name
    with pytest.raises(RunError, match=f"a name is given twice: {name}, {name}"):
        evaluate(extracted, [name, name])
    files = [evaluate(extracted, [name, "text"], split=split).files for split in ("val", "train")]
    assert [[str(file.relative_to(extracted.runs_folder)) for file in both] for both in files] == [
        [f"{name}/evaluation-{split}.csv", f"evaluation-text-{split}.csv"] for split in ("val", "train")
    ]


# tables


def test_every_table_says_what_its_rows_are_and_which_classes_are_left_out(extracted):
    m = extracted.manifest
    labels = m.labels.copy()
    labels[m.rows("val"), 0] = 0
    project = save(extracted, labels=labels)
    finetune(project, freeze=True)
    extract(Project(project.root))
    project = Project(project.root)
    empty = int((labels[m.rows("val")] == 1).any(0).__invert__().sum())
    wanted = "1 class without" if empty == 1 else f"{empty} classes without"
    for command in (["finetune", "--freeze"], ["fuse"], ["ensemble", "fm1"], ["selftrain"], ["runs"]):
        text = typed(project, *command)
        assert "15 val rows" in text, command
        assert "selected on these rows" in text, command
        assert wanted in text, command


def test_the_metric_that_ranks_is_shown(extracted):
    name = fuse(extracted).run.name
    for metric, title in (("loss", "loss"), ("micro-f1", "micro F1")):
        head, first, *_ = typed(extracted, "runs", "--metric", metric).splitlines()
        assert title in head
        assert "-" not in first.split()[-3]
    loss = line_of(extracted, name).metrics.scores.loss
    line = next(one for one in typed(extracted, "runs", "--metric", "loss").splitlines() if one.startswith(name))
    assert f"{loss:.3f}" in line
    assert "micro F1" not in typed(extracted, "runs")
    rounds = typed(extracted, "selftrain", "--metric", "loss").splitlines()
    assert "loss" in next(line for line in rounds if line.startswith("round "))


# work that is done once


def test_baselines_are_not_made_again(project, monkeypatch):
    extract(project)
    first = fuse(project)
    import mmfeat.inference.baselines as module

    def refuse(*args, **kwargs):
        raise AssertionError("a baseline was made again")

    monkeypatch.setattr(module, "fit_head", refuse)
    monkeypatch.setattr(module, "knn_logits", refuse)
    again = fuse(Project(project.root))
    assert not again.made
    assert [line.label for line in again.lines][1:3] == ["image, linear head", "text, linear head"]
    assert [line.samples_f1 for line in again.lines] == pytest.approx([line.samples_f1 for line in first.lines])


def test_logits_are_only_of_the_rows_asked_for(extracted):
    run = ensemble(extracted, ["fm1"]).run
    rows = extracted.manifest.rows("val")[::-1]
    found = logits_of(extracted, run.name, rows)
    assert found.logits.shape == (len(rows), len(extracted.manifest.classes))
    everything = logits_of(extracted, run.name, extracted.manifest.rows("all"))
    assert np.allclose(found.logits, everything.logits[rows], atol=1e-5)
    figures = metrics_of(extracted.manifest.labels[rows], found.logits, DecisionRule())
    assert figures.scores.samples_f1 == pytest.approx(line_of(extracted, run.name).metrics.scores.samples_f1)


def test_a_fit_that_diverges_is_one_line_that_names_the_setting(extracted):
    for rate in (1e38, 1e300):
        project = Project(extracted.root)
        head = dataclasses.replace(project.config.fuse.crossattn, lr=rate)  # beyond what the file may say
        project.config = dataclasses.replace(
            project.config, fuse=dataclasses.replace(project.config.fuse, crossattn=head)
        )
        with pytest.raises(RunError, match=r"crossattn: .*Lower fuse.crossattn.lr \(1e\+"):
            fuse(project)
    assert not list(extracted.runs_folder.glob("*"))
