"""Comparisons of heads: figures from kept logits, tables, CSV, Markdown, plot; going on, and what cannot be compared."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.edits import invoked
from helpers.images import is_drawn
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.csv_text import unharmed
from mmfeat.common.errors import DataError, RunError
from mmfeat.common.randomness import id_numbers
from mmfeat.common.sealed_tensors import read_arrays, write_arrays
from mmfeat.heads import HEADS, takes
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.project.project import Project
from mmfeat.report.comparison_layouts import head_layout
from mmfeat.report.comparison_table import ComparisonTable
from mmfeat.report.text_tables import MOST_FREQUENT
from mmfeat.report.trained_columns import about_in_sample
from mmfeat.runs.comparison import Candidate, Scoring, mean_of_models, score_models
from mmfeat.runs.comparison_files import ModelLogits, read_logits, write_logits
from mmfeat.runs.ensembles import combined
from mmfeat.training import head_comparison as compare
from mmfeat.training.model_costs import EncoderCosts, model_costs
from mmfeat.workflows import compare_heads as compare_heads_module
from mmfeat.workflows.compare_heads import compare_heads
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.fuse import fuse

RULE = DecisionRule()


def part(seed: int, n_seeds: int = 2, n: int = 40, k: int = 3, known: np.ndarray | None = None) -> ModelLogits:
    logits = np.random.default_rng(seed).normal(size=(n_seeds, n, k)).astype(np.float32)
    known = np.ones(n, bool) if known is None else known
    return ModelLogits(logits=logits, known=known, seconds=1.5, microseconds=2.0, head_mb=0.25)


def untrained(logits: np.ndarray) -> ModelLogits:
    return ModelLogits(logits=logits, known=np.ones(logits.shape[1], bool), seconds=None, microseconds=1.0, head_mb=0.0)


def candidate(
    label: str, kept: ModelLogits, mb: float | None = 1.0, *, paper: bool = True, note: str = ""
) -> Candidate:
    return Candidate(
        name=label[0], label=label, group="paper" if paper else "further", kept=kept, encoders_mb=mb, note=note
    )


def scored(candidates, labels: np.ndarray, metric: str = "samples-f1"):
    numbers = np.arange(len(labels), dtype=np.uint64)
    scoring = Scoring(labels=labels, numbers=numbers, metric=metric, rule_of=lambda logits: RULE)
    return score_models(candidates, scoring)


def table_of(models, classes, baselines=()) -> ComparisonTable:
    layout = head_layout("40 val rows", models, baselines, "samples-f1")
    return ComparisonTable(title="40 val rows", models=models, baselines=baselines, classes=classes, layout=layout)


def labels_of(n: int = 40, k: int = 3) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 2, (n, k)).astype(np.int8)


def models_of(labels: np.ndarray):
    right = untrained((labels * 8.0 - 4.0)[None].astype(np.float32))
    candidates = [
        candidate("encoder a", part(0, k=labels.shape[1]), 10.0),
        candidate("concat", right, None),
        candidate("c", right, 5.0, paper=False, note="in-sample for 3 of 40 rows"),
    ]
    return scored(candidates, labels)


def test_a_mean_is_seed_by_seed_and_over_what_knows_a_row():
    known = np.arange(40) % 2 == 0
    one, two, prior = part(1, n_seeds=1), part(2, n_seeds=3, known=known), np.full(3, 7.0, np.float32)
    mean = mean_of_models([one, two], prior)
    assert mean.logits.shape == (3, 40, 3)
    for s in range(3):
        np.testing.assert_array_equal(
            mean.logits[s], combined([one.logits[0], two.logits[s]], [one.known, known], [0.5, 0.5], prior)
        )
    np.testing.assert_array_equal(mean.logits[1][~known], one.logits[0][~known])
    assert (mean.seconds, mean.microseconds, mean.head_mb) == (3.0, 4.0, 0.5)
    np.testing.assert_array_equal(mean_of_models([two], prior).logits[:, known], two.logits[:, known])


def test_metrics_are_those_of_the_mean_and_the_best_has_no_difference():
    labels = labels_of()
    worse, best, equal = models_of(labels)
    mean = metrics_of(labels, part(0).logits.mean(0), RULE)
    assert worse.metrics.scores.samples_f1 == mean.scores.samples_f1
    assert worse.spread == pytest.approx(np.std(worse.seeds, ddof=1))
    assert worse.difference[2] < 0
    assert (worse.verdict, best.verdict) == ("", "best")
    assert equal.difference == (0.0, 0.0, 0.0)
    assert equal.verdict == "not significant"
    assert (worse.size_mb, best.size_mb, equal.size_mb) == (10.25, None, 5.0)


@pytest.mark.parametrize(("metric", "best"), [("loss", 1), ("macro-f1", 0), ("map", 0)])
def test_the_metric_says_which_is_best_and_by_how_much(metric, best):
    labels = labels_of()
    doubtful = (labels * 8.0 - 4.0)[None].astype(np.float32) * 0.01
    wrong = np.where(np.arange(40)[:, None] < 12, -3 * doubtful, 100 * doubtful)  # some rows, and these by little
    models = scored([candidate("a", untrained(x)) for x in (doubtful, wrong)], labels, metric)
    values = [model.value(metric) for model in models]
    assert (models[best].verdict, models[1 - best].verdict) == ("best", "")
    difference, low, high = models[1 - best].difference
    assert difference == pytest.approx(values[1 - best] - values[best])
    assert low > 0 if metric == "loss" else high < 0


def test_what_is_kept_is_read_in_the_order_of_the_ids(tmp_path):
    one, numbers = part(3), id_numbers([f"row {i}" for i in range(40)])
    one = dataclasses.replace(one, logits=np.asfortranarray(one.logits))  # as some heads give them
    write_logits(tmp_path / "a.safetensors", one, numbers=numbers, fingerprint="made from this")
    order = np.random.default_rng(0).permutation(40)
    read = read_logits(tmp_path / "a.safetensors", numbers[order], "made from this")
    np.testing.assert_array_equal(read.logits, one.logits[:, order])
    assert (read.seconds, read.microseconds, read.head_mb) == (1.5, 2.0, 0.25)
    assert read_logits(tmp_path / "a.safetensors", numbers, "made from that") is None
    assert read_logits(tmp_path / "a.safetensors", numbers + np.uint64(1), "made from this") is None
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    assert read_logits(tmp_path / "a.safetensors", numbers, "made from this") is None
    assert read_logits(tmp_path / "b.safetensors", numbers, "made from this") is None


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=3, max_size=3, unique=True))
def test_any_class_name_survives_its_files(names):
    labels = labels_of()
    labels[:, 1] = 0  # a class without a positive has no F1
    table = table_of(models_of(labels), names)
    read = list(csv.reader(io.StringIO(table.classes_csv(), newline="")))
    assert [unharmed(row[0]) for row in read[1:]] == names
    assert [row[2:5] == ["", "", ""] for row in read[1:]] == [False, True, False]
    page = table.markdown()
    by_class = page.partition("## F1 by class")[2].partition("## Accuracy")[0].strip("\n").split("\n")
    assert len(by_class) == 2 + len(names)
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in by_class} == {6}
    assert all(character.isprintable() or character == "\n" for character in page)


def test_tables_say_the_same():
    labels = labels_of()
    models = models_of(labels)
    cheap = [MetricRow.of(MOST_FREQUENT, metrics_of(labels, part(5).logits[0], RULE), note="")]
    table = table_of(models, ["x", "y", "z"], cheap)
    text = str(table).splitlines()
    assert [re.split(r" {3,}", line.strip())[0] for line in text[1:]] == [
        "most frequent",
        "encoder a",
        "concat",
        "c",
    ]
    assert "not significant; in-sample for 3 of 40 rows" in text[-1]
    rows = list(csv.DictReader(io.StringIO(table.models_csv())))
    assert [row["group"] for row in rows] == ["baseline", "paper", "paper", "further"]
    assert rows[0]["loss"] == ""
    for i, (row, model) in enumerate(zip(rows[1:], models, strict=True)):
        assert float(row["samples_f1"]) == pytest.approx(model.metrics.scores.samples_f1, abs=1e-6)
        assert f"{float(row['samples_f1']):.3f} ±" in text[2 + i]
    assert (rows[2]["model_mb"], rows[2]["train_seconds"], rows[2]["seed_deviation"]) == ("", "", "")


@pytest.fixture(scope="module")
def folder(module_folder) -> Iterator[Path]:
    """A project with every head compared, over two seeds."""
    short = [f"[fuse.{name}]\nepochs = 1\n" for name in HEADS if name not in ("linear", "concat", "crossattn")]
    (module_folder / "mmfeat.toml").write_text("".join([(module_folder / "mmfeat.toml").read_text(), *short]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "CLOCKED", 64)
        compare_heads(Project(module_folder))
        yield module_folder


def test_every_head_beside_the_papers_models(folder, monkeypatch, drawn):
    monkeypatch.setattr(compare, "fit_seeds", None)  # what is done is not done again
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "runs" in path.parts}
    project = Project(folder)
    (folder / "comparisons" / "heads-1" / "comparison.png").unlink()
    compare_heads(project)
    result = compare_heads(project)
    assert not result.made
    names = [model.name for model in result.models]
    assert names[:7] == ["image", "text", "fm1", "concat", "fm2", "crossattn", "fm3"]
    further = {name for name in HEADS if takes(name, 2)} - {"linear", "concat", "crossattn"}
    assert set(names[7:]) == further
    assert [model.label for model in result.models][:7] == [
        "encoder image",
        "encoder text",
        "mean (image, text)",
        "concat",
        "mean (mean (image, text), concat)",
        "crossattn",
        "mean (image, text, crossattn)",
    ]
    assert result.baselines[0].label == "most frequent"
    assert not {line.label for line in result.baselines} & {"image", "text"}
    assert [model.group for model in result.models] == ["paper"] * 7 + ["further"] * len(further)
    assert all(model.spread is not None for model in result.models if model.name in HEADS)
    assert all(model.kept.microseconds > 0 and model.size_mb > 0 for model in result.models)
    assert [path.name for path in result.files] == ["models.csv", "classes.csv", "comparison.md", "comparison.png"]
    assert is_drawn(result.folder / "comparison.png")
    page = (result.folder / "comparison.md").read_text(encoding="utf-8")
    assert "| mean (image, text, crossattn) |" in page
    assert result.after.startswith("mmfeat fuse --head ")
    assert before == {path: path.read_bytes() for path in before}


def test_heads_and_ensembles_are_those_of_fuse_and_ensemble(folder):
    """The same settings and seeds give the figures of the runs that predict."""
    from mmfeat.workflows.evaluate import evaluate

    result = compare_heads(Project(folder))
    figures = {model.name: model.metrics for model in result.models}
    evaluated = evaluate(Project(folder), ["crossattn-1", "fm3-1", "image"]).metrics
    for run, name in (("crossattn-1", "crossattn"), ("fm3-1", "fm3"), ("image", "image")):
        np.testing.assert_allclose(np.sort(figures[name].rows_f1), np.sort(evaluated[run].rows_f1))
        assert figures[name].scores.loss == pytest.approx(evaluated[run].scores.loss, abs=1e-5)


def test_in_sample_figures_are_those_of_the_runs_on_the_rows_that_they_learned(folder):
    from mmfeat.workflows.evaluate import evaluate

    result = compare_heads(Project(folder))
    models = {model.name: model for model in result.models}
    evaluated = evaluate(Project(folder), ["crossattn-1", "fm3-1", "image"], split="train")
    assert all(evaluated.trained.values())
    for run, name in (("crossattn-1", "crossattn"), ("fm3-1", "fm3"), ("image", "image")):
        found, wanted = models[name].trained, evaluated.metrics[run].scores
        assert (found.n_samples, found.loss) == (wanted.n_samples, pytest.approx(wanted.loss, abs=1e-5))
        for figure in ("samples_f1", "macro_f1", "label_set_accuracy", "accuracy_per_class"):
            assert getattr(found, figure) == pytest.approx(getattr(wanted, figure), abs=1e-6)
    (row,) = (r for r in csv.DictReader((result.folder / "models.csv").open()) if r["model"] == "crossattn")
    assert float(row["train_loss"]) == pytest.approx(models["crossattn"].trained.loss, abs=1e-6)
    assert "residual=query" in row["settings"]
    classes = list(csv.DictReader((result.folder / "classes.csv").open()))
    for key, scores in (("accuracy", models["fm1"].metrics.scores), ("in-sample accuracy", models["fm1"].trained)):
        shown = [float(one[f"{key} mean (image, text)"]) for one in classes]
        assert shown == pytest.approx(scores.class_accuracy.tolist(), abs=1e-6)
    page = (result.folder / "comparison.md").read_text(encoding="utf-8")
    assert "| in-sample, 45 training rows |" in page
    assert "## Accuracy by class" in page
    assert "mean of logits, equal weights" in page
    assert models["fm2"].settings["mean"] == ["fm1", "concat"]


def test_costs_are_those_of_encoders_and_heads(folder):
    models = {model.name: model.costs for model in compare_heads(Project(folder)).models}
    image, text, both, head = (models[name] for name in ("image", "text", "fm1", "crossattn"))
    assert both.milliseconds == pytest.approx(image.milliseconds + text.milliseconds, rel=1e-6)
    assert head.milliseconds > both.milliseconds * 0.5
    assert both.train_seconds == pytest.approx(image.train_seconds + text.train_seconds)
    tuned = EncoderCosts(tuning=100.0, probe=0.0, encoding=7.0, milliseconds=2.0)
    frozen = EncoderCosts(tuning=0.0, probe=3.0, encoding=5.0, milliseconds=None)
    alone = model_costs(untrained(np.zeros((1, 2, 3), np.float32)), [tuned], probes=True, reads_embeddings=False)
    assert alone.train_seconds == 100.0  # its own epochs encode
    assert alone.milliseconds == pytest.approx(2.001)
    fused = model_costs(part(0), [tuned, frozen], probes=False, reads_embeddings=True)
    assert fused.train_seconds == 100.0 + 7.0 + 5.0 + 1.5
    assert fused.milliseconds is None


def test_models_of_an_earlier_version_have_no_in_sample_figures(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "project")
    for file in (tmp_path / "project" / "comparisons" / "heads-1").glob("*.safetensors"):
        arrays, metadata = read_arrays(file)
        write_arrays(file, {name: a for name, a in arrays.items() if not name.startswith("train_")}, metadata)
    monkeypatch.setattr(compare, "fit_seeds", None)
    models = {model.name: model for model in compare_heads(Project(tmp_path / "project")).models}
    assert models["image"].trained is not None  # from the store
    assert models["crossattn"].trained is models["fm3"].trained is None
    assert "earlier version have none" in about_in_sample(list(models.values()))


def test_only_what_has_changed_is_made_again(folder, monkeypatch):
    fitted, fit = [], compare.fit_seeds
    monkeypatch.setattr(
        compare, "fit_seeds", lambda project, head, *rest: fitted.append(head) or fit(project, head, *rest)
    )
    other = compare_heads(Project(folder, {"fuse.concat.lr": 0.02}), ["concat"])
    assert fitted == ["concat"]
    assert other.folder.name == "heads-1"
    assert len(other.models) >= 7  # what was there already is shown beside it
    compare_heads(Project(folder), ["concat"])
    assert fitted == ["concat"] * 2
    (other.folder / "head-concat.safetensors").unlink()  # as an interrupted comparison lacks it
    assert compare_heads(Project(folder), ["concat"]).made
    single = compare_heads(Project(folder, {"fuse.seeds": 1}), ["linear"])
    assert (single.folder.name, fitted[3:]) == ("heads-2", ["linear"])
    assert [model.name for model in single.models] == ["image", "text", "fm1", "linear"]
    assert {model.spread for model in single.models} == {None}


def test_one_input_and_encoders_without_an_output(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "project")
    file = tmp_path / "project" / "mmfeat.toml"
    file.write_text(file.read_text().replace("size = 32", 'size = 32\ncheckpoint = "none"'))
    project = Project(tmp_path / "project", {"fuse.inputs": ("image",), "fuse.seeds": 1})
    result = compare_heads(project, ["linear"])
    assert [model.name for model in result.models] == ["image", "linear"]
    np.testing.assert_array_equal(*(model.metrics.rows_f1 for model in result.models))
    with pytest.raises(RunError, match="concat does not take the inputs image"):
        compare_heads(project, ["concat"])


def test_a_head_that_fails_does_not_stop_the_others(folder, monkeypatch):
    def fails(project, head, *rest):
        raise RunError(f"{head}: the loss of epoch 1 is nan")

    monkeypatch.setattr(compare, "fit_seeds", fails)
    result = compare_heads(Project(folder, {"fuse.crossattn.lr": 0.03}))
    assert result.failed == {"crossattn": "crossattn: the loss of epoch 1 is nan"}
    names = [model.name for model in result.models]
    assert "fm2" in names
    assert not {"crossattn", "fm3"} & set(names)


def test_what_cannot_be_compared(folder, monkeypatch):
    with pytest.raises(RunError, match="no head 'forest'"):
        compare_heads(Project(folder), ["forest"])
    project = Project(folder)
    manifest = dataclasses.replace(project.manifest, split=np.full(len(project.manifest.ids), "train", object))
    monkeypatch.setitem(project.__dict__, "manifest", manifest)
    with pytest.raises(DataError, match="no val rows to compare on"):
        compare_heads(project)


def test_what_exists_is_not_proposed(folder, monkeypatch):
    """The best head, then the best mean with it, then `runs`."""
    result = compare_heads(Project(folder), ["concat"])
    names = [model.name for model in result.models]

    def after(best: str) -> str:
        models = [dataclasses.replace(m, difference=None if m.name == best else (0.0, 0.0, 0.0)) for m in result.models]
        return compare_heads_module._next_command(Project(folder), models)

    assert {"fm2", "concat"} <= set(names)
    assert after("fm2") == after("concat") == "mmfeat fuse --head concat"
    fuse(Project(folder), "concat")
    assert after("fm2") == "mmfeat ensemble fm2"
    assert after("concat") == "mmfeat runs"
    ensemble(Project(folder), ["fm2"])
    assert after("fm2") == "mmfeat runs"


def test_the_command(folder):
    done = invoked(folder, "compare", "heads")
    assert "encoder image" in done.output
    assert not re.search(r"Vision|NLP|FM\d|FCNN", done.output)
    assert re.search(
        r"(Made|Already made:) comparisons/heads-1: models.csv.*Next: mmfeat --project .* (fuse --head|ensemble|runs)",
        done.output,
    )
