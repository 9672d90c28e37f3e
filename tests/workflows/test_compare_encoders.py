"""Comparisons of encoders: what is compared, that nothing of the project changes, what is kept, and what is put in use."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.edits import contents, edited, invoked
from helpers.images import is_drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from mmfeat.cli import group

from mmfeat.common.csv_text import unharmed
from mmfeat.common.errors import ConfigError, RunError
from mmfeat.encoders.checkpoint import read_checkpoint
from mmfeat.metrics import Outcome, bootstrap_mean, bootstrap_metrics, samples_f1_rows
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.report.comparison_layouts import best_lines, encoder_layout, head_layout
from mmfeat.report.comparison_table import ComparisonTable
from mmfeat.report.text_tables import MOST_FREQUENT, metric_cells, metric_header
from mmfeat.runs.comparison import Candidate, Scoring, best_of_groups, score_groups
from mmfeat.runs.comparison_files import ComparedEncoder, ModelLogits, read_compared_encoder, write_compared_encoder
from mmfeat.training import encoder_fits
from mmfeat.training.proposed_encoders import proposed_encoder
from mmfeat.workflows.compare_encoders import WITH_INTERVALS, advises_best, compare_encoders, use_encoders
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.store import find_unreferenced


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A model that mmfeat.toml does not have, by a file of weights."""
    from mmfeat.encoders.torchvision_remedy import make_torchvision_importable

    make_torchvision_importable()
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    return f"test_resnet={file}"


@pytest.fixture(scope="module")
def compared(module_folder, weights) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """A project with frozen encoders compared, and its files before that."""
    before = contents(module_folder, "comparisons", "features", "outputs")
    compare_encoders(Project(module_folder), ["image", "text", weights], freeze=True, seeds=2)
    return module_folder, before


@pytest.fixture
def folder(compared, tmp_path) -> Path:
    """A copy of it."""
    shutil.copytree(compared[0], tmp_path / "project")
    return tmp_path / "project"


def test_nothing_of_the_project_changes(compared):
    folder, before = compared
    assert contents(folder, "comparisons", "features", "outputs") == before


def test_fine_tuned_encoders_are_those_of_finetune_and_change_nothing(own_folder):
    folder = own_folder
    before = contents(folder, "comparisons", "features", "outputs")
    result = compare_encoders(Project(folder), ["text"], seeds=2)
    assert contents(folder, "comparisons", "features", "outputs") == before
    model = result.models[0]
    assert model.spread is not None
    assert not model.encoder.frozen
    assert model.encoder.encode_seconds is None
    assert not list(result.folder.glob("*/seed-1"))  # what cannot be used is not kept
    one = compare_encoders(Project(folder), ["text"])
    assert one.models[0].metrics.as_dict() == model.metrics.as_dict()
    used = use_encoders(Project(folder), one, "best")
    assert [u.lines for u in used] == [[]]
    own = finetune(Project(folder), ["text"]).encoders[0]
    assert not own.made  # the settings and the split are the same, so there is nothing left to do
    assert own.checkpoint.name == "text-2"
    assert own.metrics.scores.samples_f1 == pytest.approx(model.metrics.scores.samples_f1)
    extract(Project(folder), ["text"])
    on_train = evaluate(Project(folder), ["text"], split="train").metrics["text"].scores
    assert model.trained.n_samples == on_train.n_samples
    assert model.trained.loss == pytest.approx(on_train.loss, abs=1e-4)
    assert not list(result.folder.rglob("scratch"))


def test_the_first_seed_of_a_frozen_encoder_is_that_of_finetune(compared):
    folder, _ = compared
    result = compare_encoders(Project(folder), ["image"], freeze=True, seeds=2)
    models = {model.label: model for model in result.models}
    assert list(models)[2:] == ["text-encoder (text)"]  # what was compared before is shown too, by modality
    assert set(models) == {"test_efficientnet (image)", "test_resnet", "text-encoder (text)"}
    for name, label in (("image", "test_efficientnet (image)"), ("text", "text-encoder (text)")):
        made = read_checkpoint(folder / "checkpoints" / f"{name}-1").record
        assert models[label].metrics.as_dict() == made["val"]
        assert models[label].encoder.best_epoch == made["best_epoch"]
        assert models[label].encoder.rate > 0
        assert models[label].size_mb > models[label].encoder.size_mb
        on_train = evaluate(Project(folder), [name], split="train").metrics[name].scores
        assert models[label].trained.loss == pytest.approx(on_train.loss, abs=1e-4)
        assert models[label].settings["frozen"]
    (row, *_) = csv.DictReader((result.folder / "models.csv").open())
    assert float(row["train_loss"]) > 0
    assert "frozen=True" in row["settings"]


def test_typed_again_it_prints_the_same_and_makes_nothing(compared, monkeypatch, drawn):
    folder, _ = compared
    (folder / "comparisons" / "encoders-1" / "comparison.png").unlink()
    first = compare_encoders(Project(folder), ["image"], freeze=True, seeds=2)
    assert is_drawn(first.folder / "comparison.png")
    kept = {path: path.read_bytes() for path in first.files}
    monkeypatch.setattr(encoder_fits, "finetune_encoders", None)
    monkeypatch.setattr(encoder_fits, "encode_missing", None)
    again = compare_encoders(Project(folder), ["text", "image"], freeze=True, seeds=2)
    assert not again.made
    assert str(again.table) == str(first.table)
    assert kept == {path: path.read_bytes() for path in again.files}


def test_it_goes_on_where_it_stopped_and_makes_anew_what_has_changed(folder, monkeypatch):
    shutil.rmtree(folder / "comparisons" / "encoders-1" / "text")
    made, fit = [], encoder_fits.finetune_encoders
    monkeypatch.setattr(
        encoder_fits, "finetune_encoders", lambda p, names, **more: made.extend(names) or fit(p, names, **more)
    )
    assert compare_encoders(Project(folder), ["image", "text"], freeze=True, seeds=2).made
    assert made == ["text"]
    (folder / "comparisons" / "encoders-1" / "image" / "logits.safetensors").write_bytes(b"damaged")
    compare_encoders(Project(folder), ["image", "text"], freeze=True, seeds=2)
    assert made == ["text", "image"]
    compare_encoders(Project(folder, {"fuse.linear.lr": 0.03}), ["image"], freeze=True, seeds=2)
    assert made == ["text", "image", "image"]
    one = compare_encoders(Project(folder), ["image"], freeze=True)  # other seeds are another comparison
    assert (one.folder.name, made[3:]) == ("encoders-2", ["image"])


def test_a_frozen_encoder_is_not_proposed_in_place_of_a_fine_tuned_one(folder, monkeypatch):
    project = Project(folder)
    assert not advises_best(project, compare_encoders(project, ["image"], freeze=True))  # it is in use
    other = Project(folder, {"fuse.linear.lr": 0.03})
    result = compare_encoders(other, ["image"], freeze=True)
    assert advises_best(other, result)
    checkpoint = other.checkpoint(other.identity("image"))
    tuned = dataclasses.replace(checkpoint, record={**checkpoint.record, "frozen": False})
    monkeypatch.setattr(Project, "checkpoint", lambda *_: tuned)
    assert not advises_best(other, result)
    assert advises_best(other, dataclasses.replace(result, frozen=False))


def test_what_fails_is_left_out_and_if_all_do_it_is_an_error(folder):
    project = Project(folder)
    result = compare_encoders(project, ["efficientnt_b0", "image", "text:no/such-model"], freeze=True)
    assert [model.label for model in result.models] == ["test_efficientnet (image)"]
    assert set(result.failed) == {"efficientnt_b0", "such-model"}
    assert "Nearest: efficientnet_b0" in result.failed["efficientnt_b0"]
    assert "\n" not in "".join(result.failed.values())
    with pytest.raises(RunError, match="efficientnt_b0: neither an encoder"):
        compare_encoders(project, ["efficientnt_b0"], freeze=True)
    done = CliRunner().invoke(group, ["--project", str(folder), "compare", "encoders", "efficientnt_b0", "--freeze"])
    assert done.exit_code == 1


def test_an_own_encoder_becomes_the_latest_once(folder):
    shutil.rmtree(folder / "checkpoints" / "image-1")
    result = compare_encoders(Project(folder), ["image"], freeze=True, seeds=2)
    assert [u.made for u in use_encoders(Project(folder), result, "image")] == ["Made checkpoints/image-1"]
    assert [u.made for u in use_encoders(Project(folder), result, "image")] == ["Already made: checkpoints/image-1"]
    assert Project(folder).identity("image").checkpoint == "image-1"
    assert not finetune(Project(folder), ["image"], freeze=True).encoders[0].made
    with pytest.raises(ConfigError, match="--use rose: no encoder of the table"):
        use_encoders(Project(folder), result, "rose")


def test_the_table_of_another_model_is_printed_and_works(folder, weights):
    result = compare_encoders(Project(folder), [weights], freeze=True, seeds=2)
    before = contents(folder, "comparisons", "features", "outputs")
    (used,) = use_encoders(Project(folder), result, "test_resnet")
    assert contents(folder, "comparisons", "features", "outputs") == before
    assert not used.in_use
    pasted = tomllib.loads("\n".join(used.lines[1:]))["encoder"]["image"]
    toml = (folder / "mmfeat.toml").read_text(encoding="utf-8")
    old = re.search(r"\[encoder.image\].*?(?=\[encoder.text\])", toml, re.DOTALL)[0]
    (folder / "mmfeat.toml").write_text(toml.replace(old, "\n".join(used.lines[1:])))
    identity = Project(folder).identity("image")
    assert identity.model == pasted["model"] == "test_resnet"
    assert identity.output_key == read_checkpoint(folder / pasted["checkpoint"]).output().key
    encoded = extract(Project(folder), ["image"]).encoders[0]
    assert (encoded.cached, encoded.encoded) == (60, 20)  # labelled rows are there already


def test_gc_keeps_what_a_comparison_refers_to(folder, compared, weights):
    result = compare_encoders(Project(folder), [weights], freeze=True, seeds=2)
    key = next(model.encoder.encoder_key for model in result.models if model.label == "test_resnet")
    others = (str(compared[0]),)  # whose store this is a copy of
    assert not [g for g in find_unreferenced(Project(folder), others).garbage if key[:12] in g.name]
    shutil.rmtree(folder / "comparisons")
    assert [g for g in find_unreferenced(Project(folder)).garbage if key[:12] in g.name]


def test_names(project, weights, tmp_path, monkeypatch):
    def found(text: str) -> tuple[str, str, str, bool]:
        one = proposed_encoder(project, text, {"albert": "text"})
        return one.name, one.table.modality, one.table.model, one.own

    text = project.config.encoder["text"].model
    assert found("image") == ("image", "image", "test_efficientnet", True)
    assert found("test_efficientnet") == ("image", "image", "test_efficientnet", True)
    assert found(text) == ("text", "text", text, True)
    assert found("test_resnet.r160_in1k") == ("image", "image", "test_resnet.r160_in1k", False)
    assert found(weights)[2:] == ("test_resnet", False)
    assert found("shufflenet_v2_x2_0")[1] == found("torchvision:resnet18")[1] == "image"
    assert found("google/bert_uncased_L-2_H-128_A-2")[:2] == ("text", "text")
    assert found("albert-base-v2")[:2] == ("text", "text")
    assert found("albert")[1] == found("text:test_resnet")[1] == "text"
    assert found("image:albert-base-v2")[1] == "image"
    monkeypatch.chdir(Path(text).parent)
    assert found(f"./{Path(text).name}")[1:3] == ("text", text)
    assert not proposed_encoder(project, f"test_efficientnet={weights.partition('=')[2]}", {}).own
    assert not proposed_encoder(project, "test_resnet", {}).table.reduced_decoding  # as in the project's own table
    reduced = edited(project, "size = 32", "size = 32\nreduced_decoding = true")
    assert proposed_encoder(reduced, "test_resnet", {}).table.reduced_decoding
    for wrong, message in (
        ("test_resnet=nowhere.pth", "no file of weights"),
        ("=x", "write an encoder"),
        ("a=", "write"),
    ):
        with pytest.raises(ConfigError, match=message):
            proposed_encoder(project, wrong, {})


@functools.cache
def models_of(metric: str = "samples-f1", n: int = 40, k: int = 3):
    labels = np.random.default_rng(9).integers(0, 2, (n, k)).astype(np.int8)
    labels[:, 1] = 0  # a class without a positive has no F1
    right = (labels * 8.0 - 4.0).astype(np.float32)
    candidates = []
    for i, (label, modality, wrong) in enumerate([("a|b", "image", 0.8), ("e", "text", 0.0), ("d", "image", 0.0)]):
        rng = np.random.default_rng(i)
        logits = np.stack([np.where(rng.random((n, k)) < wrong, -right, right) for _ in range(2)])
        encoder = ComparedEncoder(
            typed=label,
            label=label,
            name=modality,
            modality=modality,
            model=label,
            width=8,
            size_mb=4.0 if i else None,
            encoder_key="0" * 64,
            n_labelled=n,
            rate=10.0 if i else None,
            measured="",
            fit_seconds=1.5,
            best_epoch=3,
            frozen=True,
            device="cpu",
        )
        kept = ModelLogits(logits=logits, known=np.ones(n, bool), seconds=None, microseconds=0.0, head_mb=0.25)
        candidates.append(
            Candidate(name=label, label=label, group=modality, kept=kept, encoders_mb=encoder.size_mb, encoder=encoder)
        )
    scoring = Scoring(
        labels=labels,
        numbers=np.arange(n, dtype=np.uint64),
        metric=metric,
        rule_of=lambda logits: DecisionRule(),
        mean_of_seeds=False,
        intervals=WITH_INTERVALS,
    )
    return score_groups(candidates, scoring, ("image", "text", "other"))


def table_of(models, classes) -> ComparisonTable:
    baselines = [MetricRow.of(MOST_FREQUENT, models[0].metrics)]
    layout = encoder_layout("40 val rows", models, baselines, "samples-f1")
    return ComparisonTable(title="40 val rows", models=models, baselines=baselines, classes=classes, layout=layout)


@pytest.mark.parametrize("metric", ["samples-f1", "loss", "map", "micro-f1"])
def test_models_are_by_modality_the_best_first(metric):
    models = models_of(metric=metric)
    assert [model.label for model in models] == ["d", "a|b", "e"]
    assert [model.verdict for model in models] == ["best", "", "best"]
    assert {group: model.label for group, model in best_of_groups(models).items()} == {"image": "d", "text": "e"}
    assert "not significantly different: none" in best_lines(models, metric)[0]
    first = models[1]
    assert first.metrics.rows_f1.mean() == pytest.approx(first.seeds[0])
    for name, (low, high) in first.intervals.items():
        assert low <= getattr(first.metrics.scores, name) <= high


@pytest.mark.parametrize("layout_of", [head_layout, encoder_layout])
def test_intervals_are_shown_as_in_every_other_table(layout_of):
    models = models_of()
    baselines = [MetricRow.of(MOST_FREQUENT, models[0].metrics)]
    layout = layout_of("40 val rows", models, baselines, "map")
    cells = dict(zip(metric_header(), metric_cells(models[1].line), strict=True))
    shown = {column.title: column for column in layout.columns}
    for title in ("samples F1", "macro F1", "mAP"):
        assert shown[title].cell(models[1]) == cells[title]
        assert shown[title].baseline(models[1].line) == cells[title]
    assert "±" in cells["mAP"]
    assert layout.notes[0].startswith("± is half the 95 % interval over rows (")


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=3, max_size=3, unique=True))
def test_any_class_name_survives_its_files(names):
    table = table_of(models_of(), names)
    read = list(csv.reader(io.StringIO(table.classes_csv(), newline="")))
    assert [unharmed(row[0]) for row in read[1:]] == names
    assert [row[2:5] == [""] * 3 for row in read[1:]] == [False, True, False]
    page = table.markdown()
    by_class = page.partition("## F1 by class")[2].partition("## Accuracy")[0].strip("\n").split("\n")
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in by_class} == {6}
    assert all(character.isprintable() or character == "\n" for character in page)


def test_tables_say_the_same():
    table = table_of(models_of(), ["x", "y", "z"])
    text = str(table).splitlines()
    rows = list(csv.DictReader(io.StringIO(table.models_csv())))
    assert [row["encoder"] for row in rows] == ["d", "a|b", "e"]
    assert (rows[1]["mb"], rows[1]["per_second"], rows[1]["encode_seconds"]) == ("", "", "")
    assert float(rows[0]["seconds"]) == 40 / 10.0 + 1.5
    for row in rows:
        line = next(one for one in text if one.startswith(row["encoder"]))
        assert f"{float(row['samples_f1']):.3f} ±" in line
        assert f"{float(row['loss']):.4f}" in line


def test_intervals_of_one_model_are_those_of_its_rows():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, (300, 4)).astype(np.int8), rng.normal(size=(300, 4)).astype(np.float32)
    decided = (logits > 0).astype(np.int8)
    found = bootstrap_metrics(labels, Outcome(decided, logits, logits))
    assert found["samples_f1"] == pytest.approx(bootstrap_mean(samples_f1_rows(labels, decided)), abs=0.01)
    unknown = np.concatenate([labels, np.full((9, 4), -1, np.int8)])
    more = Outcome(*(np.concatenate([a, np.zeros((9, 4), a.dtype)]) for a in (decided, logits, logits)))
    assert bootstrap_metrics(unknown, more) == found


def test_the_command(folder):
    command = ["compare", "encoders", "image", "text", "--freeze", "--seeds", "2"]
    done = invoked(folder, *command)
    assert "Best of image: " in done.output
    # the project uses these two already, so `--use best` would change nothing
    assert re.search(
        r"(Made|Already made:) comparisons/encoders-1: models.csv.*Next: mmfeat .* (runs|fuse)", done.output
    )
    used = invoked(folder, *command, "--use", "text")
    assert re.search("Already made: checkpoints/text-1. Next: mmfeat --project .* (runs|fuse)", used.output)


def test_a_record_has_what_its_file_has(tmp_path):
    record = models_of()[0].encoder
    write_compared_encoder(tmp_path / "encoder.json", record)
    assert read_compared_encoder(tmp_path / "encoder.json") == record
    (tmp_path / "encoder.json").write_text('{"format": 1}')
    assert read_compared_encoder(tmp_path / "encoder.json") is None
    assert dataclasses.replace(record, frozen=False).seconds == 1.5
