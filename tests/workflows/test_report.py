"""`mmfeat report`: one self-contained file with the metrics of `evaluate`; it names what is missing."""

from __future__ import annotations

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from helpers.edits import edited, invoked, save, typed

from mmfeat.audit.findings import Finding, Summary
from mmfeat.common.errors import ConfigError, DataError, OutputError, RunError
from mmfeat.project.audit_record import AuditRecord, write_audit
from mmfeat.project.project import Project
from mmfeat.runs.run import read_run
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.report import report

PICTURE = "data:image/jpeg;base64,"


def page_of(result) -> str:
    return result.file.read_text(encoding="utf-8")


def rows_of(result, name: str) -> list[dict[str, str]]:
    path = next(path for path in result.tables if path.stem.endswith(f"-{name}"))
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_a_report_has_the_metrics_of_evaluate_and_needs_nothing_beside_it(own):
    result = report(own, "crossattn-1")
    page, metrics = page_of(result), evaluate(own, ["crossattn-1"]).metrics["crossattn-1"]
    assert result.file == own.root / "runs" / "crossattn-1" / "report.html"
    assert PICTURE in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    (line,) = [row for row in rows_of(result, "metrics") if row["model"] == "crossattn-1"]
    assert float(line["samples F1"]) == pytest.approx(metrics.scores.samples_f1)
    assert float(line["samples F1 ±"]) == pytest.approx(metrics.half_width)
    by_class = rows_of(result, "classes")
    assert [row["class"] for row in by_class] == list(own.manifest.classes)
    known = [float(row["F1"]) for row in by_class if row["F1"]]
    assert known == pytest.approx(metrics.scores.class_f1[metrics.scores.n_positives > 0].tolist())
    assert not read_run(own.root / "runs" / "crossattn-1").damage()


def test_the_best_run_is_shown_without_a_name_and_typed_again_nothing_changes(own):
    result = report(own)
    assert result.chosen
    page = page_of(result)
    assert f"<h1>{result.run}</h1>" in page
    assert page_of(report(Project(own.root))) == page
    result.file.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="has been changed since"):
        report(Project(own.root))
    assert PICTURE in page_of(report(Project(own.root), overwrite=True))


def test_an_ensemble_shows_its_members_and_weights(own):
    result = report(own, "fm3-1")
    models = [row["model"] for row in rows_of(result, "metrics")]
    assert models[0] == "most frequent"
    assert models[-2:] == ["crossattn-1", "fm3-1"]
    assert {row["member"] for row in rows_of(result, "weights")} >= {"crossattn-1"}
    assert "Head crossattn-1" in page_of(result)  # its learning curves


def test_an_encoder_has_a_report_too_and_one_modality_is_said(own):
    result = report(own, "text")
    assert result.file == own.root / "runs" / "report-text.html"
    assert "Nothing to compare" in page_of(result)
    alone = fuse(Project(own.root, {"fuse.inputs": ["text"]}), "linear").run.name
    page = page_of(report(Project(own.root), alone))
    assert "Nothing to compare: only text has unimodal predictions" in page


def test_confidential_data_leave_out_pictures_and_captions(own):
    caption = next(c for c in own.manifest.captions[own.manifest.rows("val")] if c)
    assert caption in page_of(report(own, "crossattn-1"))
    result = report(own, "crossattn-1", images=False, captions=False)
    page = page_of(result)
    assert PICTURE not in page
    assert "Pictures were left out" in page
    for text in own.manifest.captions:
        assert not text or f">{text}<" not in page
    for path in result.tables:
        assert caption not in path.read_text(encoding="utf-8")


def test_test_rows_are_asked_for_and_in_sample_rows_are_labelled(own):
    with pytest.raises(DataError, match=r"no labelled test rows. Set \[split\] test"):
        report(own, "crossattn-1", split="test")
    manifest = own.manifest
    split = manifest.split.copy()
    split[manifest.rows("val")[:7]] = "test"
    tested = save(own, split=split)
    result = report(tested, "crossattn-1", split="test")
    assert result.file.name == "report-test.html"
    assert [row["model"] for row in rows_of(result, "metrics")] == ["most frequent", "image", "text", "crossattn-1"]
    assert "7 test rows" in page_of(result)
    assert "in-sample" not in page_of(result)
    trained = page_of(report(tested, "crossattn-1", split="train"))
    n = len(tested.manifest.rows("train"))
    assert f"In-sample: the model was trained on {n} of {n} train rows" in trained
    assert f"in-sample for {n:,} of {n:,} rows" in trained


def test_without_val_rows_the_page_says_so_and_goes_on(own):
    split = np.where(own.manifest.split == "val", "train", own.manifest.split).astype(object)
    result = report(save(own, split=split), "crossattn-1")
    page = page_of(result)
    assert "no labelled val rows, so there are no metrics" in page
    assert "Most uncertain" in page
    assert not [path for path in result.tables if "metrics" in path.name]
    compared = page_of(report(Project(own.root), of_project=True))
    assert "there are no val rows" in compared


def test_pictures_that_are_gone_are_said_and_the_page_goes_on(own, tmp_path, small_source):
    source = shutil.copytree(small_source, tmp_path / "photos")
    moved = edited(own, str(small_source), str(source), -1)
    report(moved, "crossattn-1", images=False)  # the digests of the images are remembered
    for picture in [*source.rglob("*.jpg"), *source.rglob("*.zip")]:
        picture.unlink()
    page = page_of(report(Project(own.root), "crossattn-1"))
    assert "cannot be read" in page
    assert PICTURE not in page
    assert "Surest errors by class" in page


def test_no_run_is_one_line(project):
    with pytest.raises(RunError, match=r"no run yet\. Run: mmfeat fuse"):
        report(project)
    with pytest.raises(RunError, match="crossattn-9"):
        report(project, "crossattn-9")
    with pytest.raises(ConfigError, match=r"Name it: report\.html"):
        report(project, "x", out="report.pdf")


def test_a_stale_run_says_why(own):
    other = edited(own, "size = 32", "size = 40")
    page = page_of(report(other, "crossattn-1"))
    assert "stale: encoder image has changed" in page


def test_hostile_captions_labels_and_ids_stay_text(own):
    bad = "<script>alert(1)</script>\"'\x1b[31m\u202e" + "x" * 10_000
    classes = ("<b>bold</b>", '"&quot;', *own.manifest.classes[2:])
    captions = np.array([f"{bad} {n}" for n in range(own.manifest.n_samples)], dtype=object)
    project = own.derived(manifest=dataclasses.replace(own.manifest, captions=captions))
    from mmfeat.inference.run_page import PageOptions, run_page
    from mmfeat.project.named_models import find_model
    from mmfeat.report.html.pages import page_html

    page = page_html(run_page(project, find_model(project, "crossattn-1"), PageOptions()))
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "x" * 1000 not in page
    assert classes[0] not in page


def test_findings_of_the_audit_are_side_by_side(own):
    ids = own.manifest.ids.tolist()
    twin = Finding(check="near_duplicate", id=ids[0], score=0.01, detail="the same picture", related=(ids[1], "gone"))
    again = Finding(check="near_duplicate", id=ids[1], score=0.02, detail="shown already", related=(ids[0], "gone"))
    wrong = Finding(check="label", id=ids[2], score=0.1, class_name="star", given=("star",), proposed=("ring", "moon"))
    summaries = (
        Summary(check="near_duplicate", title="near-duplicates", n_findings=1, n_samples=2, lines=("1 cluster",)),
        Summary(check="label", title="label errors", n_findings=1, n_samples=1),
        Summary(check="outlier", title="outliers", skipped="no embeddings are cached"),
    )
    before = page_of(report(own, "crossattn-1"))
    assert "not audited yet" in before
    write_audit(
        own, AuditRecord(summaries=summaries, findings=(twin, again, wrong), run="crossattn-1", fingerprint="other")
    )
    page = page_of(report(Project(own.root), "crossattn-1"))
    assert "the same picture" in page
    assert "shown already" not in page
    assert 'class="gallery pairs"' in page
    assert "Skipped: no embeddings are cached" in page
    assert "proposed" in page
    assert "Out of date: crossattn-1 was made again" in page
    (own.root / "audit.json").write_text("{", encoding="utf-8")
    assert "audit.json" in page_of(report(Project(own.root), "crossattn-1"))


def test_all_runs_of_a_project(own):
    report(own, "crossattn-1")
    result = report(Project(own.root), of_project=True)
    page = page_of(result)
    assert result.file == own.root / "runs" / "report.html"
    assert 'href="crossattn-1/report.html"' in page
    assert 'href="fm3-1/report.html"' not in page
    assert {row["model"] for row in rows_of(result, "runs")} == {"crossattn-1", "fm3-1", "image", "text"}
    assert len(rows_of(result, "differences")) == 3
    assert set(rows_of(result, "classes")[0]) == {"class", "positives", "crossattn-1", "fm3-1", "image", "text"}
    with pytest.raises(ConfigError, match="leave out 'fm3-1'"):
        report(own, "fm3-1", of_project=True)


def test_on_the_command_line(own, tmp_path):
    said = typed(own, "report", "crossattn-1", "--no-images", "--out", str(tmp_path / "send.html"))
    assert f"Made {tmp_path / 'send.html'}" in said
    assert (tmp_path / "send-classes.csv").is_file()
    assert "Next: " in said
    from click.testing import CliRunner
    from mmfeat.cli import group

    wrong = CliRunner().invoke(group, ["--project", str(own.root), "report", "fm3-1", "--project"])
    assert wrong.exit_code == 2
    assert "mmfeat --project DIR report" in wrong.output
    assert invoked(own.root, "report", "--project", "--json").output.startswith("{")
