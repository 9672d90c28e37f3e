"""What was chosen on one half of val is scored on the other half."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.edits import invoked

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.randomness import id_numbers
from mmfeat.inference import honest_choice
from mmfeat.inference.honest_choice import honest_choices
from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import best_run
from mmfeat.metrics import scores
from mmfeat.metrics.decision_rule import fit_decision_rule
from mmfeat.project.project import Project
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.fuse import fuse


def halves_of(project) -> list[np.ndarray]:
    val = project.manifest.rows("val")
    order = np.argsort(id_numbers(project.manifest.ids[val]), kind="stable")
    return [order[::2], order[1::2]]


def test_without_a_choice_the_two_halves_give_the_metric_on_all_rows(own):
    (found,) = honest_choices(Project(own.root, {"predict.threshold": 0.4, "metric": "samples-f1"}), ["crossattn-1"])
    assert found.value == pytest.approx(found.plain)
    assert "+0.000 from" in found.line
    assert found.chosen == ("crossattn-1", "crossattn-1")


def test_a_threshold_is_fitted_on_the_half_that_is_not_scored(own):
    project = Project(own.root, {"predict.threshold": "tuned", "metric": "micro-f1"})
    val = project.manifest.rows("val")
    labels, logits = project.manifest.labels[val], logits_of(project, "crossattn-1", val).logits
    wanted, sizes = [], []
    for own_half, other in (halves := halves_of(project), halves[::-1]):
        rule = fit_decision_rule(project.config.predict, "micro-f1", labels=labels[own_half], logits=logits[own_half])
        predicted = rule.labels(rule.probs(logits[other]))
        wanted.append(scores(labels[other], predicted, logits[other]).micro_f1)
        sizes.append(len(other))
    (found,) = honest_choices(project, ["crossattn-1"])
    assert found.value == pytest.approx(np.average(wanted, weights=sizes))


def test_a_run_that_is_good_on_one_half_alone_is_scored_on_the_other(own, monkeypatch):
    """Each run predicts one half perfectly and the other half wrongly: whichever is chosen is wrong where it is scored."""
    for head in ("concat", "linear"):
        fuse(own, head)
    val = own.manifest.rows("val")
    right = np.where(own.manifest.labels[val] == 1, 4.0, -4.0).astype(np.float32)
    first = halves_of(own)[0]
    sides = {"concat-1": right * np.where(np.isin(np.arange(len(val)), first), 1, -1)[:, None]}
    sides["linear-1"] = -sides["concat-1"]

    class Found:
        def __init__(self, name: str) -> None:
            self.logits = sides.get(name, -right)

    monkeypatch.setattr(honest_choice, "logits_of", lambda project, name, rows: Found(name))
    (found,) = honest_choices(Project(own.root, {"predict.empty": "none", "metric": "samples-f1"}))
    assert found.chosen == ("concat-1", "linear-1")
    assert found.value == 0
    assert found.plain > 0.3
    assert found.line.endswith("Chosen: concat-1 and linear-1.")


@pytest.mark.parametrize("metric", ["samples-f1", "micro-f1", "macro-f1", "map", "loss"])
def test_the_plain_value_is_what_runs_shows(own, metric):
    project = Project(own.root, {"metric": metric, "predict.calibration": "temperature"})
    result = evaluate(project, honest=True)
    name = best_run(project).name
    assert result.honest[0].plain == pytest.approx(result.metrics[name].scores.value(metric))
    assert np.isfinite(result.honest[0].value)
    assert evaluate(project).honest == []


def test_the_command_prints_a_line_for_each_choice(own_folder):
    said = invoked(own_folder, "evaluate", "--honest").output
    assert said.count("Run and decision rule chosen on one half of val and scored on the other: ") == 1
    said = invoked(own_folder, "evaluate", "crossattn-1", "image", "--honest").output
    for name in ("crossattn-1", "image"):
        assert said.count(f"{name}: decision rule fitted on one half of val and scored on the other: ") == 1


def test_what_has_no_halves_is_refused(own, monkeypatch):
    with pytest.raises(ConfigError, match="leave out --split train"):
        evaluate(own, ["crossattn-1"], split="train", honest=True)
    monkeypatch.setattr(type(own.manifest), "rows", lambda self, which: np.arange(1))
    with pytest.raises(DataError, match="found 1 val row"):
        honest_choices(own, ["crossattn-1"])
