"""`mmfeat fuse --folds`: figures of labelled rows by heads that never saw them, wherever the run is read."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from helpers.edits import invoked

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.lineage import Lineage
from mmfeat.inference.ensemble_members import rows_to_fit_on
from mmfeat.inference.logits import held_out_folds, run_logits
from mmfeat.inference.networks import compose, model_record
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.project import Project
from mmfeat.project.staleness import remake_command
from mmfeat.runs.run import ROLES
from mmfeat.training import head_folds as folds_module
from mmfeat.training import head_runs as headruns
from mmfeat.training.head_folds import Folds
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.fuse import fuse

FOLDS = {"fuse.folds": 3, "fuse.head": "concat"}


@pytest.fixture(scope="module")
def folded(module_folder):
    """A project with a run in folds, and that run."""
    project = Project(module_folder, FOLDS)
    return project, fuse(project)


def labelled(project: Project) -> np.ndarray:
    return np.sort(np.concatenate([project.manifest.rows(which) for which in ("train", "val")]))


def test_labelled_rows_have_the_logits_of_heads_that_are_blind_to_them(folded):
    project, result = folded
    rows = labelled(project)
    fold = held_out_folds(project, result.run, rows)
    assert np.array_equal(fold, Folds(project).of_rows(rows))
    found = run_logits(project, result.run, rows).logits
    kept = result.run.logits()
    at = {i: n for n, i in enumerate(kept.ids)}
    order = [at[i] for i in project.manifest.ids[rows]]
    np.testing.assert_allclose(found, kept.logits[order], atol=1e-5)
    assert (kept.roles == ROLES["out-of-fold"]).all()
    part = compose(project, result.run.name).composition.part(result.run.name)
    table = project.feature_table(list(result.run.encoders), rows).take(rows)
    each = np.stack([head(*table.to("cpu")).detach().numpy() for head in part.seeds]).reshape(2, 3, len(rows), -1)
    own = each[:, fold, np.arange(len(rows))].mean(0)
    np.testing.assert_allclose(found, own, atol=1e-5)
    shipped = run_logits(project, result.run, rows, shipped=True).logits
    np.testing.assert_allclose(shipped, each.mean((0, 1)), atol=1e-5)
    others = project.manifest.rows("unlabelled")
    assert (held_out_folds(project, result.run, others) == -1).all()


def test_no_figure_of_a_run_in_folds_is_in_sample(folded):
    project, result = folded
    learned = result.run.learned()
    ids = project.manifest.ids[labelled(project)]
    assert learned.is_out_of_fold(ids).all()
    assert not np.any(learned.among(ids))
    assert [line.state for line in ranked_runs(project) if line.name == result.run.name] == ["current"]
    evaluated = evaluate(project, [result.run.name], split="train")
    assert evaluated.n_out_of_fold[result.run.name] == evaluated.n_rows == len(project.manifest.rows("train"))
    assert model_record(project, compose(project, result.run.name))["n_trained"] == len(ids)
    assert result.labelled.n_rows == len(ids)
    assert not result.labelled.n_in_sample
    assert [line.label for line in result.labelled.lines] == ["concat, one seed", "concat, mean"]


def test_an_ensemble_of_runs_in_folds_may_be_fitted_on_all_labelled_rows(folded):
    project, result = folded
    assert np.array_equal(rows_to_fit_on(project, [result.run.name]), labelled(project))
    plain = fuse(Project(project.root, {"fuse.head": "concat"}))
    assert np.array_equal(rows_to_fit_on(project, [result.run.name, plain.run.name]), project.manifest.rows("val"))
    made = ensemble(project, [result.run.name, plain.run.name])
    learned = made.run.learned()
    train, val = (project.manifest.ids[project.manifest.rows(which)] for which in ("train", "val"))
    assert learned.among(train)[0].all()
    assert not learned.is_out_of_fold(train).any()
    assert learned.is_out_of_fold(val).all()


def test_the_same_folds_are_the_same_run_and_others_another(folded):
    project, result = folded
    assert not fuse(Project(project.root, FOLDS)).made
    assert remake_command(project, result.run) == "mmfeat fuse --head concat --folds 3"
    assert fuse(Project(project.root, {**FOLDS, "fuse.folds": 2, "fuse.seeds": 1})).made
    plain = fuse(Project(project.root, {"fuse.head": "concat"}))
    assert plain.run.record["folds"] == 0
    assert plain.labelled is None


def test_rows_that_an_encoder_was_fine_tuned_on_are_in_sample_all_the_same(folded, monkeypatch):
    project, _ = folded
    train, val = (project.manifest.ids[project.manifest.rows(which)] for which in ("train", "val"))
    for module in (folds_module, headruns):
        monkeypatch.setattr(module, "lineage_of_encoder", lambda *_: Lineage.of(train, val))
    asked = []
    fit = folds_module.fit_folds
    monkeypatch.setattr(
        folds_module, "fit_folds", lambda *a, **more: asked.append(more["judges"].sum()) or fit(*a, **more)
    )
    result = fuse(Project(project.root, {**FOLDS, "fuse.head": "linear", "fuse.seeds": 1}))
    assert not result.labelled.lines
    assert result.labelled.n_in_sample == len(train)
    assert asked == [len(val)]
    assert not result.run.learned().among(val)[0].any()


def test_identical_pictures_and_groups_are_in_one_fold(folded, monkeypatch):
    project, _ = folded
    rows = labelled(project)
    names = np.full(project.manifest.n_samples, "", object)
    names[rows[:9]] = "g"
    grouped = Project(project.root, FOLDS)
    grouped.__dict__["manifest"] = dataclasses.replace(project.manifest, groups=names)
    fold = Folds(grouped).of_rows(rows)
    assert len(set(fold[:9])) == 1
    assert Folds(grouped).made_from() != Folds(project).made_from()
    columns = {**project.manifest.columns, "group": "g"}
    grouped.__dict__["manifest"] = dataclasses.replace(project.manifest, columns=columns)
    with pytest.raises(DataError, match=r"by a version that did not store groups\. Run: mmfeat init"):
        Folds(grouped)


@pytest.mark.parametrize("folds", ["1", "21", "-1", "2.5"])
def test_numbers_of_folds_that_make_no_sense(folded, folds):
    with pytest.raises(ConfigError, match=r"fuse\.folds"):
        Project(folded[0].root, {"fuse.folds": folds})


def test_the_command_says_which_rows_its_figures_are_of(folded):
    project, result = folded
    out = invoked(project.root, "fuse", "--folds", "3", "--head", "concat").stdout
    assert f"{len(labelled(project))} labelled rows, out of fold" in out
    assert "2 seeds x 3 folds, best epochs" in out
    assert f"Already made: runs/{result.run.name}." in out
    figure = re.search(r"concat, mean +(\d\.\d{3} ± \d\.\d{3})", out)[1]
    out = invoked(project.root, "evaluate", result.run.name, "--split", "train+val").stdout
    n = len(labelled(project))
    assert re.search(rf"{n} train\+val rows .*\n{result.run.name} +{figure} ", out)
    assert f"{n} of {n} rows out of fold, scored by heads that were not trained on them" in out
    toml = project.root / "mmfeat.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("[fuse]\n", "[fuse]\nfolds = 3\n"), encoding="utf-8")
    command = ("selftrain", "--head", "linear", "--rounds", "0", "--seeds", "1")
    assert "selftrain trains without folds" in invoked(project.root, *command).stderr
