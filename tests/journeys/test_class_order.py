"""Classes in another order are the same classes: all that was made of them is found by name, and says the same."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from mmfeat import Predictor
from mmfeat.common.errors import MissingFeatures
from mmfeat.common.labels import class_positions
from mmfeat.inference import logits as scoring
from mmfeat.inference.fitted_rules import rule_for_rows, shipped_rule
from mmfeat.inference.logits import logits_of
from mmfeat.inference.networks import compose
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.encoding import extract
from mmfeat.project.initialisation import init
from mmfeat.project.named_models import find_run
from mmfeat.project.project import Project
from mmfeat.runs.composition import build_composition
from mmfeat.store.feature_table import FeatureTable
from mmfeat.workflows.compare_heads import compare_heads
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import selftrain

TUNED = {"predict.threshold": "tuned-per-class", "predict.calibration": "temperature"}
HEADS = ("crossattn-1", "concat-1", "selftrain-1")
ENSEMBLES = ("fm3-1", "ensemble-1", "ensemble-2", "ensemble-3")  # means, per class, stacked, and a mean of these
NAMES = ("image", *HEADS, *ENSEMBLES)


def reordered(folder) -> Project:
    """The project after its class list was given in another order."""
    classes = Project(folder).manifest.classes
    other = [*classes[2:], *classes[:2]]  # which is not its own inverse
    assert len(classes) > 4
    (folder / "classes.csv").write_text("\n".join(["label", *other]) + "\n", encoding="utf-8")
    file = folder / "mmfeat.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("[data]", '[data]\nclasses = "classes.csv"', 1), encoding="utf-8")
    made = init(folder)
    assert "order of the classes has changed" in made.summary
    assert "Train again" not in made.summary
    assert made.after == "mmfeat status"
    assert Project(folder).manifest.classes == tuple(other)
    return Project(folder, TUNED)


@pytest.fixture(scope="module")
def projects(module_folder) -> tuple[Project, Project]:
    """The same project with its classes in two orders; all was made in the first."""
    fuse(Project(module_folder, {"fuse.folds": 3, "fuse.head": "concat"}))
    project = Project(module_folder, TUNED)
    selftrain(project)
    ensemble(project, ["image", "text", "concat-1"], method="per-class")
    ensemble(project, ["image", "text"], method="stacked")
    ensemble(project, ["ensemble-2", "ensemble-1", "concat-1"])
    return project, reordered(shutil.copytree(module_folder, module_folder.with_name("after")))


def by_name(project: Project, values: np.ndarray) -> np.ndarray:
    """Columns in one order, whatever the project's is."""
    classes = project.manifest.classes
    return np.asarray(values)[..., class_positions(classes, sorted(classes))]


def labelled_table(project: Project) -> FeatureTable:
    rows = project.manifest.rows("val")
    return project.feature_table(["image", "text"], rows, tokens=True).take(rows)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_decisions_are_those_of_before(projects, name):
    found = []
    for project in projects:
        rows = project.manifest.rows("all")
        as_shipped, decision = logits_of(project, name, rows, shipped=True), rule_for_rows(project, name, rows)
        logits = logits_of(project, name, rows).logits
        decided = decision.labels(decision.probs(logits))
        found.append([by_name(project, x) for x in (logits, as_shipped.logits, decided, decision.threshold)])
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5)
    assert np.ptp(found[0][0], axis=1).min() > 0  # so that columns in another order would be others


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_composed_of_it_predicts_as_before(projects, name):
    found = []
    for project in projects:
        made, inputs = compose(project, name), labelled_table(project).to("cpu")
        network = made.composition
        outputs = [
            network(*inputs)[0],
            network.unimodal_prediction("image", *inputs),
            network.unimodal_prediction("text", *inputs),
        ]
        found.append([by_name(project, x.numpy()) for x in outputs])
        again = build_composition(json.loads(json.dumps(network.describe())))  # as an exported folder does
        again.load_state_dict(network.state_dict())
        assert torch.equal(again(*inputs)[0], outputs[0])
        wanted = logits_of(project, name, project.manifest.rows("val"), shipped=True).logits
        np.testing.assert_allclose(outputs[0].numpy(), wanted, atol=1e-4)
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_figures_are_those_of_before(projects):
    tables = []
    for project in projects:
        result = evaluate(project, list(NAMES))
        tables.append([sorted(path.read_text(encoding="utf-8").splitlines()) for path in result.files])
        tables[-1].append([(line.name, line.state) for line in ranked_runs(project)])
    assert tables[0] == tables[1]
    assert all(state == "current" for _, state in tables[1][-1])


def test_what_a_run_says_by_class_is_in_the_order_of_today(projects):
    records = []
    for project in projects:
        for name in (*HEADS, *ENSEMBLES):
            run = find_run(project, name)
            assert run.classes == project.manifest.classes
            kept = run.logits()
            records.append(
                {"logits": by_name(project, kept.logits), "figures": run.record["figures"]["val"]["class_f1"]}
            )
            for member in run.record["members"]:
                if isinstance(member["weight"], list):
                    records[-1][member["name"]] = member["weight"]
            for key in ("prior", "bias"):
                if key in run.record:
                    records[-1][key] = run.record[key]
            if (decision := run.record["decision"])["fitted"]:
                records[-1]["threshold"] = decision["threshold"]
            for key, values in records[-1].items():
                records[-1][key] = values if key == "logits" else by_name(project, np.array(values, float))
    half = len(records) // 2
    for before, after in zip(records[:half], records[half:], strict=True):
        assert before.keys() == after.keys()
        for key in before:
            np.testing.assert_array_equal(after[key], before[key])
    assert any(len(record) > 5 for record in records)


def test_what_was_kept_is_read_by_name_where_the_features_are_gone(projects, monkeypatch):
    def gone(*_, **__):
        raise MissingFeatures("gone")

    monkeypatch.setattr(scoring, "_head_logits", gone)
    monkeypatch.setattr(scoring, "_ensemble_logits", gone)
    for name in (*HEADS, *ENSEMBLES):
        one, other = (by_name(p, logits_of(p, name, p.manifest.rows("val")).logits) for p in projects)
        np.testing.assert_array_equal(one, other)


def test_the_store_lacks_nothing_and_its_tables_name_their_columns(projects):
    before, after = projects
    result = extract(after)
    assert not any(one.encoded for one in result.encoders)
    assert not any(result.logits.values())
    tables = [project.feature_table(["image", "text"]) for project in projects]
    for name in ("image", "text"):
        one, other = (by_name(p, np.asarray(t.logits[name])) for p, t in zip(projects, tables, strict=True))
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(by_name(before, tables[0].labels), by_name(after, tables[1].labels))


def test_new_ensembles_and_comparisons_join_old_and_new_by_name(projects):
    """An encoder's output and a run of the old order, and a run of the new."""
    before, after = projects
    new = fuse(after, "concat").run
    assert new.columns is None
    made = ensemble(after, ["image", "crossattn-1", new.name]).run
    rows = after.manifest.rows("val")
    parts = [logits_of(after, name, rows).logits for name in ("image", "crossattn-1", new.name)]
    np.testing.assert_allclose(logits_of(after, made.name, rows).logits, np.mean(parts, 0), atol=1e-5)
    np.testing.assert_allclose(
        by_name(after, parts[1]), by_name(before, logits_of(before, "crossattn-1", rows).logits), atol=1e-5
    )
    lines = {one.name: one.metrics.rows_f1 for one in compare_heads(after, ["concat"]).models}
    wanted = {one.name: one.metrics.rows_f1 for one in compare_heads(before, ["concat"]).models}
    for name in ("image", "text", "fm1"):  # nothing is trained for these
        np.testing.assert_array_equal(lines[name], wanted[name])


@pytest.mark.parametrize(
    ("name", "runtime"),
    [("ensemble-3", "torch"), ("image", "torch"), pytest.param("crossattn-1", "onnx", marks=pytest.mark.slow)],
)
def test_an_export_is_of_the_order_of_today(projects, tmp_path, name, runtime):
    if runtime == "onnx":
        for module in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(module)
    _, after = projects
    made = export(after, name, tmp_path / "model", format=runtime)
    assert made.n_checked
    assert made.difference < 1e-3
    predictor = Predictor.load(made.folder)
    assert predictor.classes == after.manifest.classes
    np.testing.assert_allclose(predictor.decision.threshold, shipped_rule(after, name).threshold)
    record, f1 = predictor.record["run"], evaluate(after, [name]).metrics[name].scores.class_f1
    np.testing.assert_allclose(record["figures"]["class_f1"], f1, atol=1e-6)


def test_predictions_name_the_same_labels(projects):
    rows = []
    for project in projects:
        files = predict(project, "ensemble-3", format="jsonl", split="all").files
        lines = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
        rows.append([(line["id"], sorted(line["labels"]), sorted(line["probabilities"].items())) for line in lines])
    assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
    for (*_, one), (*_, other) in zip(*rows, strict=True):
        assert [name for name, _ in one] == [name for name, _ in other]
        np.testing.assert_allclose([p for _, p in one], [p for _, p in other], atol=2e-6)
