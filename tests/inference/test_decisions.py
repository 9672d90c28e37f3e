"""What decides: out of sample on val, fitted on all of val elsewhere, and the same wherever a run predicts."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.command_line import run_cli
from helpers.edits import invoked
from helpers.projects import TUNED

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError
from mmfeat.common.randomness import id_numbers
from mmfeat.config.schema import PredictConfig
from mmfeat.inference.fitted_rules import rule_for_rows, shipped_rule
from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.metrics.decision_rule import DecisionRule, auto_threshold, crossfit_decision_rule, fit_decision_rule
from mmfeat.metrics.metric_rows import metrics_of
from mmfeat.project.project import Project
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict

RULES = [
    PredictConfig(0.3, "none"),
    PredictConfig("tuned"),
    PredictConfig("tuned-per-class", "none", "temperature"),
    PredictConfig(0.5, calibration="temperature"),
    PredictConfig("auto", "none"),
    PredictConfig("auto", calibration="temperature"),
]


def made(n: int = 200):
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 3)) < 0.3).astype(np.int8)
    logits = (2 * labels - 1.5 + rng.normal(size=labels.shape)).astype(np.float32)
    return labels, logits, id_numbers([str(i) for i in range(n)])


def shifted(by: float):
    """Labels, logits whose best threshold lies `by` logits from 0.5, and numbers."""
    labels, logits, numbers = made(600)
    return labels, logits + np.float32(by), numbers


def fitted_auto(labels, logits, numbers, metric="samples-f1", empty="none"):
    given = {"labels": labels, "logits": logits, "numbers": numbers}
    rule = PredictConfig("auto", empty)
    return fit_decision_rule(rule, metric, **given), auto_threshold(rule, metric, **given)


@pytest.mark.parametrize("metric", ["samples-f1", "micro-f1", "macro-f1", "map", "loss"])
def test_auto_fits_a_threshold_where_that_beats_a_half_beyond_the_standard_error(metric):
    labels, logits, numbers = shifted(-3)
    rule, found = fitted_auto(labels, logits, numbers, metric)
    assert found.fitted
    assert found.gain > found.error > 0
    assert rule.threshold < 0.3
    tuned = PredictConfig("tuned", "none")
    assert rule.threshold == fit_decision_rule(tuned, metric, labels=labels, logits=logits).threshold
    assert found.metric == (metric if metric.endswith("f1") else "samples-f1")


def test_auto_stays_at_a_half_where_a_fitted_threshold_is_not_better_beyond_the_standard_error():
    labels, logits, numbers = shifted(0.35)  # a half is close to the best
    rule, found = fitted_auto(labels, logits, numbers)
    assert found.gain <= found.error
    assert rule.threshold == 0.5
    assert found.rule.threshold == 0.5


def test_auto_stays_at_a_half_without_labelled_rows():
    labels, logits, numbers = made(0)
    rule, found = fitted_auto(labels, logits, numbers)
    assert rule.threshold == 0.5
    assert not found.fitted


def test_epochs_are_selected_alike_for_all_fitted_thresholds():
    for threshold in (0.5, "auto", "tuned", "tuned-per-class"):
        assert PredictConfig(threshold).of_training() == {
            "threshold": 0.5,
            "empty": "most-probable",
        }  # as 0.1 recorded it


@pytest.mark.parametrize("rule", RULES)
def test_json_keeps_a_decision_to_the_last_bit(rule):
    labels, logits, numbers = made()
    decision = fit_decision_rule(rule, "samples-f1", labels=labels, logits=logits, numbers=numbers)
    again = DecisionRule.of(json.loads(json.dumps(decision.as_dict())))
    assert np.array_equal(again.probs(logits), decision.probs(logits))
    assert np.array_equal(again.labels(again.probs(logits)), decision.labels(decision.probs(logits)))


@pytest.mark.parametrize("rule", RULES)
def test_a_rows_own_label_never_decides_it(rule):
    labels, logits, numbers = made()
    found = crossfit_decision_rule(rule, "micro-f1", labels=labels, logits=logits, numbers=numbers)
    decided = found.labels(found.probs(logits))
    for row in (0, 7):
        changed = labels.copy()
        changed[row] = 1 - changed[row]
        other = crossfit_decision_rule(rule, "micro-f1", labels=changed, logits=logits, numbers=numbers)
        assert np.array_equal(other.labels(other.probs(logits))[row], decided[row])


def test_a_temperature_changes_the_loss_and_no_ranking_and_no_decision_at_a_half():
    labels, logits, _ = made()
    plain, cooled = metrics_of(labels, logits, DecisionRule()), metrics_of(labels, logits, DecisionRule(2.0))
    assert cooled.scores.loss == pytest.approx(metrics_of(labels, logits / 2, DecisionRule()).scores.loss)
    assert cooled.scores.map == plain.scores.map
    assert cooled.scores.samples_f1 == plain.scores.samples_f1


def test_rows_of_val_are_decided_by_the_other_folds_and_others_by_all_of_val(trained):
    project = Project(trained, TUNED)
    rows = project.manifest.rows("all")
    val = np.isin(rows, project.manifest.rows("val"))
    shipped, found = shipped_rule(project, "fm3-1"), rule_for_rows(project, "fm3-1", rows)
    assert found.threshold.shape == (len(rows), len(project.manifest.classes))
    assert (found.threshold[~val] == shipped.threshold).all()
    assert (found.temperature[~val] == shipped.temperature).all()
    logits = logits_of(project, "fm3-1", rows[val]).logits
    numbers = id_numbers(project.manifest.ids[rows[val]])
    cross = crossfit_decision_rule(
        project.config.predict, "samples-f1", labels=project.manifest.labels[rows[val]], logits=logits, numbers=numbers
    )
    assert np.array_equal(found.threshold[val], cross.threshold)
    line = next(line for line in ranked_runs(project) if line.name == "fm3-1")
    evaluated = evaluate(project, ["fm3-1"]).metrics["fm3-1"].scores
    assert line.metrics.scores.samples_f1 == pytest.approx(evaluated.samples_f1)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_an_exported_model_decides_as_predict_does(own_folder, tmp_path, runtime, request):
    project = Project(own_folder, TUNED)
    result = predict(project, "fm3-1", format="jsonl")
    lines = [json.loads(line) for line in result.files[0].read_text(encoding="utf-8").splitlines()]
    if runtime == "onnx":
        model = request.getfixturevalue("exported_onnx")
    else:
        model = export(project, "fm3-1", tmp_path / "model").folder
    predictor = Predictor.load(model)
    assert np.array_equal(predictor.decision.threshold, result.decision.threshold)
    assert predictor.decision.temperature == result.decision.temperature != 1
    rows = project.manifest.rows("unlabelled")
    present, read = project.row_keys("image").present, project.reader("image")
    images = [read(row) if present[row] else None for row in rows]
    found = predictor.predict(images, project.manifest.captions[rows].tolist(), on_error="record")
    assert found.labels == [line["labels"] for line in lines]
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "fitted on" in card
    assert "| class | threshold |" in card


def test_what_is_fitted_after_training_makes_no_other_run(own_folder):
    before = fuse(Project(own_folder))
    tuned = fuse(Project(own_folder, TUNED))
    assert not before.made
    assert not tuned.made
    assert tuned.run.name == before.run.name
    assert tuned.lines[-1].map == pytest.approx(before.lines[-1].map)
    assert tuned.lines[-1].loss != before.lines[-1].loss
    other = fuse(Project(own_folder, {"predict.threshold": "0.3"}))
    assert other.made
    assert other.run.record["decision"] == {
        "temperature": 1.0,
        "threshold": 0.3,
        "empty": "most-probable",
        "fitted": "",
    }


def test_without_val_rows_there_is_nothing_to_tune_on(trained, monkeypatch):
    for overrides, remedy in (
        (TUNED, "--threshold 0.5"),
        ({"predict.calibration": "temperature"}, "--calibration none"),
    ):
        project = Project(trained, overrides)
        rows = project.manifest.rows
        monkeypatch.setattr(
            type(project.manifest),
            "rows",
            lambda self, which, rows=rows: rows(which)[:0] if which == "val" else rows(which),
        )
        with pytest.raises(ConfigError, match=remedy):
            predict(project, "fm3-1")
        monkeypatch.undo()


def test_two_runs_are_compared_under_every_figure(own_folder):
    done = run_cli("evaluate", "fm3-1", "text", "image", "--threshold", "tuned", "--metric", "macro-f1", cwd=own_folder)
    assert re.findall(r"^(\S+) minus (\S+):$", done.stdout, re.M) == [("fm3-1", "text"), ("fm3-1", "image")]
    assert len(re.findall(r"^macro F1 .* significant$", done.stdout, re.M)) == done.stdout.count("significant") == 2
    assert "fitted on" in done.stdout
    done = run_cli("predict", "fm3-1", "--threshold", "tuned", cwd=own_folder)
    assert "for samples-f1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--threshold", "tuned"], 1), (["--calibration", "temperature"], 2), (["--empty", "none"], 2)],
)
def test_an_exported_model_is_not_tuned_again(exported, tmp_path, arguments, code):
    done = run_cli("predict", "--caption", "a", "--model", str(exported), *arguments, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert code == 2 or len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["fuse", "--head", "crossattn"],
        ["ensemble", "fm3"],
        ["selftrain", "--rounds", "1"],
        ["evaluate", "crossattn-1"],
        ["evaluate", "crossattn-1", "image"],
    ],
    ids=" ".join,
)
def test_a_typed_threshold_is_said_to_be_kept_by_no_run(own_folder, short_rounds, command):
    said = invoked(own_folder, *command, "--threshold", "0.4").output
    about = (
        "No run keeps --threshold 0.4. To use it, give it to predict, evaluate and export too, or set threshold = 0.4 "
        "under [predict] in mmfeat.toml."
    )
    assert said.count(about) == 1
    assert "Threshold 0.4, as typed." in said
    assert "No run keeps" not in invoked(own_folder, *command).output
    again = invoked(own_folder, *command, "--threshold", "0.4").output
    assert about in again
    (own_folder / "mmfeat.toml").open("a").write("\n[predict]\nthreshold = 0.4\n")
    in_file = invoked(own_folder, *command).output
    assert "Threshold 0.4, as set in mmfeat.toml." in in_file
    assert "No run keeps" not in in_file
