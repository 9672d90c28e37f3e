"""What commands read and compute once: logits of val rows, records of members, hashes of labels, average precision."""

from __future__ import annotations

import numpy as np
import pytest

from mmfeat.encoders import encoder as encoder_module
from mmfeat.encoders.engines import graphs, selection
from mmfeat.encoders.weights import digest_of
from mmfeat.inference import evaluation, fitted_rules
from mmfeat.inference.logits import logits_of
from mmfeat.metrics import scores, scoring
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import metrics_of
from mmfeat.project.encoding import ExtractionOptions, extract
from mmfeat.project.project import Project
from mmfeat.runs import run as run_module
from mmfeat.runs.run import read_run
from mmfeat.workflows import status as status_module
from mmfeat.workflows.apply_review import apply_review
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.status import status


class Counted:
    """A function that counts its calls."""

    def __init__(self, function) -> None:
        self.function, self.n = function, 0

    def __call__(self, *given, **named):
        self.n += 1
        return self.function(*given, **named)


def counted(monkeypatch, function, *modules) -> Counted:
    calls = Counted(function)
    for module in modules:
        monkeypatch.setattr(module, function.__name__, calls)
    return calls


def test_average_precision_is_computed_once(monkeypatch):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(-1, 2, (50, 4)).astype(np.int8), rng.normal(size=(50, 4)).astype(np.float32)
    half = scores(labels, DecisionRule().labels(DecisionRule().probs(logits)), logits)
    calls = counted(monkeypatch, scoring._average_precisions, scoring)
    found = metrics_of(labels, logits, DecisionRule(threshold=0.3))
    assert calls.n == 1
    assert found.at_half == {name: getattr(half, name) for name in ("samples_f1", "micro_f1", "macro_f1")}


@pytest.mark.parametrize("threshold", [0.5, 0.3, "auto", "tuned", "tuned-per-class"])
@pytest.mark.parametrize(("split", "n"), [("val", 1), ("train", 2)])
def test_logits_of_val_rows_are_read_once(own_folder, monkeypatch, threshold, split, n):
    calls = counted(monkeypatch, logits_of, evaluation, fitted_rules)
    evaluate(Project(own_folder, {"predict.threshold": threshold}), ["crossattn-1"], split=split)
    assert calls.n == n


def test_the_records_of_members_are_read_once(own_folder, monkeypatch):
    ensemble = read_run(own_folder / "runs" / "fm3-1")
    calls = counted(monkeypatch, read_run, run_module)
    n_read = [len(ensemble.members), calls.n][1]
    assert n_read
    assert ensemble.made_from == [member["name"] for member in ensemble.members]
    assert calls.n == n_read


def test_status_hashes_labels_once_until_they_change(own_folder, monkeypatch):
    calls = counted(monkeypatch, status_module.labels_now, status_module)
    monkeypatch.setattr("mmfeat.common.remembered._TICK", 0)  # the files were written just now
    assert [status(Project(own_folder)).relabelled for _ in range(3)] == [[]] * 3
    assert calls.n == 1
    project = Project(own_folder)
    row = project.manifest.rows("train")[0]
    other = np.flatnonzero(project.manifest.labels[row] != 1)[0]
    (own_folder / "r.csv").write_text(f"id,labels\n{project.manifest.ids[row]},{project.manifest.classes[other]}\n")
    apply_review(project, own_folder / "r.csv")
    assert [status(Project(own_folder)).relabelled for _ in range(2)] == [["crossattn-1", "fm3-1"]] * 2
    assert calls.n == 2


def test_images_that_engines_are_measured_on_are_decoded_once_and_weights_are_hashed_once(
    project, monkeypatch, tmp_path
):
    monkeypatch.setattr(selection, "SECONDS", 0.0)
    monkeypatch.setattr(selection, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(graphs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    project = Project(project.root, {"engine": "auto"})
    project.built(project.identity("image"))
    hashed = counted(monkeypatch, digest_of, encoder_module)
    read = project.reader("image")
    monkeypatch.setattr(project, "reader", lambda name: lambda row: seen.append(row) or read(row))
    seen: list[int] = []
    (result,) = extract(project, ["image"], options=ExtractionOptions(tune=True)).encoders
    assert result.tuned
    assert len(seen) == len(set(seen)) >= result.encoded
    assert hashed.n == 0  # the project knows the digest
