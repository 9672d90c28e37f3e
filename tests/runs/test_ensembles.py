"""Ensembles: one formula in numpy, torch and exports; fitted weights, and figures of weights that never saw the row."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers.command_line import run_cli
from helpers.edits import line_of, moved, save, typed, with_blank_captions
from helpers.networks import WIDTHS, K, items, parts
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError, DataError, RunError
from mmfeat.common.lineage import Lineage
from mmfeat.common.randomness import id_numbers
from mmfeat.config.schema import METHODS, PredictConfig
from mmfeat.inference import ensemble_members as members_module
from mmfeat.inference.logits import logits_of, run_logits, training_prior
from mmfeat.metrics.metric_rows import score_by
from mmfeat.project.project import Project
from mmfeat.project.staleness import is_current, remake_command
from mmfeat.runs.composition import Composition, build_composition
from mmfeat.runs.ensemble_weights import Rows, Weights, cross_fit, fit_weights, weight_folds
from mmfeat.runs.ensembles import combined
from mmfeat.runs.run import ROLES
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse

SCORE = score_by("samples-f1", PredictConfig())

FITTED = METHODS[1:]


def some_rows(n: int = 200, n_members: int = 3, seed: int = 0, absent: float = 0.2, good: tuple[int, ...] = ()) -> Rows:
    """Members that are noise about the labels; those of `good` are nearly right."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.2, 0.05]).astype(np.int8)
    noise = [0.3 if m in good else 4.0 for m in range(n_members)]
    logits = np.stack([6.0 * labels - 3 + spread * rng.standard_normal(labels.shape) for spread in noise])
    labels[rng.random(labels.shape) < 0.1] = -1
    known = rng.random((n_members, n)) >= absent
    numbers = id_numbers([f"row {i}" for i in range(n)])
    prior = np.linspace(-2, 1, 4, dtype=np.float32)
    return Rows(logits=logits.astype(np.float32), known=known, labels=labels, numbers=numbers, prior=prior)


# the formula


def test_all_members_are_a_weighted_sum_and_an_intercept():
    rows = some_rows(absent=0)
    weights, bias = np.arange(12.0).reshape(3, 4) / 10, np.array([1.0, -1, 0, 2])
    wanted = np.einsum("mnk,mk->nk", rows.logits, weights) + bias
    assert np.allclose(combined(rows.logits, rows.known, weights, rows.prior, bias=bias), wanted, atol=1e-4)


def test_one_member_alone_is_itself_and_what_no_member_knows_is_the_prior():
    rows = some_rows(n_members=1)
    found = combined(rows.logits, rows.known, [1.0], rows.prior)
    assert np.array_equal(found[rows.known[0]], rows.logits[0][rows.known[0]])
    assert np.array_equal(found[~rows.known[0]], np.tile(rows.prior, ((~rows.known[0]).sum(), 1)))
    nobody = combined(rows.logits, [np.zeros(200, bool)], [2.0], rows.prior, bias=[1.0, 1, 1, 1])
    assert np.array_equal(nobody, np.tile(rows.prior, (200, 1)))


def test_an_absent_member_gives_its_weight_to_those_that_know_the_row():
    z = np.array([[[1.0, 2]], [[3, 4]], [[50, 60]]], np.float32)
    known, prior = np.array([[True], [True], [False]]), np.zeros(2)
    assert np.allclose(combined(z, known, [0.2, 0.3, 0.5], prior), [[2.2, 3.2]])
    by_class = [[0.2, 0.0], [0.3, 0.5], [0.5, 0.5]]
    assert np.allclose(combined(z, known, by_class, prior, bias=[1, -1]), [[3.2, 3.0]])
    assert np.allclose(combined(z, known, [0.0, 0.0, 1.0], prior), [[2, 3]])  # these alone: their plain mean


numbers_by_class = st.one_of(st.floats(0, 2), st.lists(st.floats(0, 2), min_size=K, max_size=K))


@given(
    weights=st.lists(numbers_by_class, min_size=3, max_size=3),
    bias=st.none() | st.lists(st.floats(-3, 3), min_size=K, max_size=K),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
@torch.no_grad()
def test_torch_and_numpy_make_the_same(weights, bias, seed):
    made, (inputs, present) = parts(), items(7, seed)
    prior = np.array([0.5, -0.5, 2.0], np.float32)
    tree = {"members": list(made), "weights": weights, "prior": prior.tolist()} | ({"bias": bias} if bias else {})
    whole = build_composition(json.loads(json.dumps(Composition(made, tree, K).describe())))
    whole.load_state_dict(Composition(made, tree, K).state_dict())
    logits, known = whole(inputs, present)
    each = [part(inputs, present) for part in made.values()]
    wanted = combined([one.numpy() for one, _ in each], [there.numpy() for _, there in each], weights, prior, bias=bias)
    assert np.allclose(logits.numpy(), wanted, atol=1e-4)
    assert np.array_equal(known.numpy(), np.any([there.numpy() for _, there in each], axis=0))
    assert np.array_equal(logits.numpy()[~known.numpy()], np.tile(prior, ((~known).sum(), 1)))


def test_onnx_makes_the_same(tmp_path):
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module)
    runtime = pytest.importorskip("onnxruntime")
    from mmfeat.predictor.onnx_files import head_inputs, save_heads_onnx

    tree = {
        "members": ["image", {"members": ["text", "concat-1"], "weights": [0.0, 1.0], "prior": [0.0, 0, 0]}],
        "weights": [[0.2, 0.0, 1.5], [0.3, 1.0, 0.0]],
        "prior": [1.0, 2.0, 3.0],
        "bias": [0.5, 0.0, -1.0],
    }
    whole, (inputs, present) = Composition(parts(), tree, K), items(9, 1)
    save_heads_onnx(whole, WIDTHS, tmp_path / "heads.onnx", dtype="float32")
    session = runtime.InferenceSession(str(tmp_path / "heads.onnx"))
    arrays = [*(inputs[n].numpy() for n in WIDTHS), *(present[n].numpy() for n in WIDTHS)]
    found = session.run(["logits"], dict(zip(head_inputs(list(WIDTHS)), arrays, strict=True)))[0]
    with torch.no_grad():
        assert np.allclose(found, whole(inputs, present)[0].numpy(), atol=1e-5)


# the fit


@pytest.mark.parametrize("method", FITTED)
def test_a_planted_good_member_has_the_weight(method):
    rows = some_rows(600, good=(1,), absent=0)
    weights = fit_weights(method, rows, SCORE).weights
    assert (weights[1] > 2 * np.delete(weights, 1, axis=0)).all()
    if method in ("weighted", "per-class"):
        assert np.allclose(weights.sum(0), 1)


@pytest.mark.parametrize("method", FITTED)
def test_without_evidence_it_is_the_mean(method):
    rows = some_rows(30)
    blank = dataclasses.replace(rows, labels=np.full_like(rows.labels, -1))
    for none in (blank, rows.take(np.zeros(30, bool))):
        fitted = fit_weights(method, none, SCORE)
        assert np.allclose(fitted.weights, 1 / 3, atol=1e-6)
        assert fitted.bias is None or np.allclose(fitted.bias, 0, atol=1e-6)


def test_few_rows_do_little_and_a_class_of_few_positives_stays_with_all_classes():
    few = fit_weights("stacked", some_rows(3, good=(1,)), SCORE)
    assert np.abs(few.weights - 1 / 3).max() < 0.5
    rows = some_rows(400, good=(1,), absent=0)
    labels = rows.labels.copy()
    labels[2:, 3] = -1  # two known labels of the last class
    rows = dataclasses.replace(rows, labels=labels)
    shared, by_class = fit_weights("weighted", rows, SCORE).weights, fit_weights("per-class", rows, SCORE).weights
    assert np.abs(by_class[:, 3] - shared).max() < 0.05


@pytest.mark.parametrize("method", ["weighted", "per-class", "stacked"])
def test_a_fit_has_less_loss_than_the_mean_and_equal_members_stay_equal(method):
    rows, loss = some_rows(300, good=(2,)), score_by("loss", PredictConfig())
    fitted, mean = fit_weights(method, rows, SCORE), Weights(np.full(3, 1 / 3))
    assert loss(rows.labels, fitted.of(rows)) > loss(rows.labels, mean.of(rows))
    twins = dataclasses.replace(rows, logits=rows.logits[[0, 0]], known=rows.known[[0, 0]])
    weights = fit_weights(method, twins, SCORE).weights
    assert np.allclose(weights[0], weights[1], atol=1e-5)


def test_the_slope_is_that_of_the_loss():
    from mmfeat.runs.ensemble_weights import _cross_entropy

    rows, w, b, step = some_rows(50), np.array([0.2, 0.9, 0.1]), 0.3, 1e-6
    given = (np.float64(rows.logits[:, :, 0].T), rows.known.T | (np.arange(3) == 0), rows.labels[:, 0] == 1)
    slope = _cross_entropy(w, b, *given)[1]
    for i in range(4):
        moved_by = np.zeros(4)
        moved_by[i] = step
        up, down = (_cross_entropy(w + s * moved_by[:3], b + s * moved_by[3], *given)[0] for s in (1, -1))
        assert slope[i] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-4)


@given(seed=st.integers(0, 99), metric=st.sampled_from(["samples-f1", "micro-f1", "macro-f1", "map", "loss"]))
@settings(max_examples=15)
def test_greedy_is_never_worse_than_the_best_member_on_its_own_rows(seed, metric):
    rows, score = some_rows(40, seed=seed), score_by(metric, PredictConfig())
    fitted = fit_weights("greedy", rows, score)
    chosen = fitted.weights > 0
    found = score(rows.labels, Weights(fitted.weights[chosen]).of(rows.of(chosen)))
    alone = [score(rows.labels, Weights(np.ones(1)).of(rows.of(np.arange(3) == m))) for m in range(3)]
    assert found >= max(alone) - 1e-6
    assert fitted.weights.sum() == pytest.approx(1)


# out of sample


@pytest.mark.parametrize("method", FITTED)
def test_a_rows_labels_do_not_change_its_own_logits(method):
    rows = some_rows(100)
    _, before = cross_fit(method, rows, SCORE)
    fold = weight_folds(rows.numbers)
    for row in (0, 57):
        labels = rows.labels.copy()
        labels[row] = 1 - np.abs(labels[row])
        _, after = cross_fit(method, dataclasses.replace(rows, labels=labels), SCORE)
        assert np.array_equal(after[fold == fold[row]], before[fold == fold[row]])
        assert method == "greedy" or not np.array_equal(after, before)


@pytest.mark.parametrize("method", FITTED)
def test_the_order_of_the_rows_does_not_matter(method):
    rows = some_rows(100)
    order = np.random.default_rng(1).permutation(100)
    (weights, logits), (again_weights, again_logits) = (cross_fit(method, r, SCORE) for r in (rows, rows.take(order)))
    assert np.array_equal(weights.weights, again_weights.weights)
    assert np.array_equal(logits[order], again_logits)


def test_a_rows_fold_depends_on_no_other_row():
    numbers = id_numbers([f"{i}.jpg" for i in range(1000)])
    assert np.array_equal(weight_folds(numbers)[::7], weight_folds(numbers[::7]))
    assert np.bincount(weight_folds(numbers)).min() > 150


# the command


@pytest.fixture
def fused(extracted) -> Project:
    fuse(extracted, "concat")
    return Project(extracted.root)


@pytest.mark.parametrize("method", FITTED)
def test_val_rows_have_logits_out_of_fold_and_all_others_those_that_are_shipped(fused, method):
    names, manifest = ["image", "text", "concat-1"], fused.manifest
    result = ensemble(fused, names, method=method)
    run, val = result.run, manifest.rows("val")
    rows = Rows(
        logits=np.stack([logits_of(fused, name, val).logits for name in names]),
        known=np.stack([logits_of(fused, name, val).known for name in names]),
        labels=manifest.labels[val],
        numbers=id_numbers(manifest.ids[val]),
        prior=training_prior(fused),
    )
    weights, out_of_fold = cross_fit(method, rows, score_by(fused.config.metric, fused.config.predict))
    assert np.allclose(run_logits(fused, run, val[::-1]).logits, out_of_fold[::-1], atol=1e-5)
    shipped = run_logits(fused, run, val, shipped=True).logits
    chosen = weights.weights > 0 if method == "greedy" else np.ones(3, bool)
    assert np.allclose(shipped, Weights(weights.weights[chosen], weights.bias).of(rows.of(chosen)), atol=1e-5)
    assert np.allclose(run.record["members"][0]["weight"], weights.weights[chosen][0])
    others = np.concatenate([manifest.rows("train"), manifest.rows("unlabelled")])
    assert np.array_equal(run_logits(fused, run, others).logits, run_logits(fused, run, others, shipped=True).logits)
    figures = run.record["figures"]["val"]
    assert figures["loss"] == pytest.approx(line_of(fused, run.name).metrics.scores.loss)
    assert result.lines[-1].loss == pytest.approx(figures["loss"])
    assert (run.record["fitted"]["n_val"], run.record["fitted"]["n_train"]) == (len(val), 0)
    assert is_current(fused, run)
    assert run.learned().among(manifest.ids[val])[1].all()
    assert not ensemble(Project(fused.root), names, method=method).made
    assert remake_command(fused, run) == f"mmfeat ensemble --method {method} image text concat-1"


def test_what_is_exported_is_what_is_shipped(fused, tmp_path):
    run = ensemble(fused, ["image", "text", "concat-1"], method="stacked").run
    outer = ensemble(fused, [run.name, "text"]).run  # a mean of a fitted one
    for name in (run.name, outer.name):
        result = export(fused, name, tmp_path / name)
        assert result.n_checked > 0
        assert result.difference < 1e-4
    model, manifest = Predictor.load(tmp_path / run.name), fused.manifest
    texts = fused.manifest.captions[manifest.rows("unlabelled")[:3]].tolist()
    found = model.predict([None] * 3, texts)
    assert np.isfinite(found.probs).all()


def test_greedy_without_members_chooses_among_all_that_are_current(fused):
    ensemble(fused, ["fm1"])
    result = ensemble(fused, [], method="greedy")
    candidates = result.fitted["candidates"]
    assert candidates == ["image", "text", "concat-1"]
    assert {m["name"] for m in result.run.record["members"]} | set(result.left_out) == set(candidates)
    assert remake_command(fused, result.run) == "mmfeat ensemble --method greedy"
    assert "ensemble minus mean" in typed(fused, "ensemble", "--method", "greedy")


def test_rows_without_a_member_are_known_by_the_others(extracted):
    project, blank = with_blank_captions(extracted)
    for method in ("weighted", "per-class", "stacked"):
        run = ensemble(project, ["image", "text"], method=method).run
        found, image = run_logits(project, run, blank, shipped=True), logits_of(project, "image", blank)
        scale = np.sum([m["weight"] for m in run.record["members"]], axis=0)
        assert found.known.all()
        assert np.allclose(found.logits, image.logits * scale + np.array(run.record.get("bias", 0)), atol=1e-4)


def test_a_row_that_changed_after_the_fit_has_no_figure_until_it_is_made_again(extracted):
    run = ensemble(extracted, ["image", "text"], method="weighted").run
    captions, val = extracted.manifest.captions.copy(), extracted.manifest.rows("val")
    captions[val[0]] = captions[val[1]]
    project = save(extracted, captions=captions)
    with pytest.raises(
        RunError, match=r"fitted on 1 of these rows.*again: mmfeat ensemble --method weighted image text"
    ):
        run_logits(project, run, val)
    assert line_of(project, run.name).state.startswith("no metrics: ")
    run_logits(project, run, project.manifest.rows("train"))
    second = ensemble(project, ["image", "text"], method="weighted")
    assert second.made
    assert line_of(project, second.run.name).state == "current"


def test_members_that_were_trained_on_val_rows_of_today_take_them_from_the_fit(extracted):
    project = moved(extracted, "train", "val", 5)
    result = ensemble(project, ["image", "text"], method="weighted")
    assert (result.fitted["n_val"], result.fitted["n_train"]) == (15, 0)
    assert "not ranked" in line_of(project, result.run.name).state
    seen = extracted.manifest.rows("train")[:5]
    kept = result.run.logits()
    assert not np.isin(project.manifest.ids[seen], kept.ids[kept.roles == ROLES["fitted"]]).any()


def test_train_rows_take_part_where_all_members_are_out_of_fold(extracted, monkeypatch):
    nothing = Lineage.of([], [])
    monkeypatch.setattr(members_module, "lineage_of", lambda project, name: nothing)
    result = ensemble(extracted, ["image", "text"], method="stacked")
    train = extracted.manifest.rows("train")
    assert (result.fitted["n_val"], result.fitted["n_train"]) == (15, len(train))
    out_of_fold = run_logits(extracted, result.run, train).logits
    assert not np.allclose(out_of_fold, run_logits(extracted, result.run, train, shipped=True).logits)


def test_rows_that_became_test_are_scored_by_weights_that_never_saw_them(extracted):
    run = ensemble(extracted, ["image", "text"], method="stacked").run
    val = extracted.manifest.rows("val")
    before = run_logits(extracted, run, val[:4]).logits
    project = moved(extracted, "val", "test", 4)
    assert np.array_equal(run_logits(project, run, project.manifest.rows("test")).logits, before)
    assert evaluate(project, [run.name], split="test").n_selected[run.name] == 4


def test_other_classes_are_refused(extracted):
    run = ensemble(extracted, ["image", "text"], method="per-class").run
    project = save(extracted, classes=("renamed", *extracted.manifest.classes[1:]))
    with pytest.raises(RunError, match="made for other classes"):
        run_logits(project, run, project.manifest.rows("val"))
    assert not is_current(project, run)


def test_what_cannot_be_fitted_is_said(extracted):
    run = ensemble(extracted, ["image", "text"], method="weighted").run
    mean = ensemble(extracted, [run.name, "text"]).run
    for name in (run.name, mean.name):
        with pytest.raises(RunError, match=rf"Name the members of {run.name} instead: image text"):
            ensemble(extracted, [name, "image"], method="stacked")
    with pytest.raises(RunError, match="fm1 is a mean"):
        ensemble(extracted, ["fm1"], method="greedy")
    with pytest.raises(RunError, match="no members"):
        ensemble(extracted, [])
    with pytest.raises(ConfigError, match="Use one of: mean, weighted, per-class, stacked, greedy"):
        ensemble(extracted, ["image"], method="best")
    trained_alone = moved(moved(extracted, "val", "test", 15), "train", "val", 5)
    with pytest.raises(DataError, match="no weights can be fitted"):
        ensemble(trained_alone, ["image", "text"], method="weighted")


def test_the_command_says_what_was_fitted(extracted):
    text = typed(extracted, "ensemble", "--method", "stacked", "image", "text")
    assert "intercept" in text
    assert (
        "Weights fitted for the lowest loss on 15 val rows; the ensemble's metrics are cross-fitted in 5 folds." in text
    )
    assert text.splitlines()[-1] == f"Made runs/ensemble-1. Next: mmfeat --project {extracted.root} runs"
    done = run_cli("--project", str(extracted.root), "ensemble", cwd=extracted.root, check=False)
    assert (done.returncode, "no members" in done.stderr) == (1, True)
