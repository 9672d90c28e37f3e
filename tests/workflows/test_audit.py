"""`mmfeat audit` in a project: its files, its predictions, its exit code, and what it does where something is missing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.command_line import run_cli
from mmfeat.cli import group

from mmfeat.audit.checks import all_checks
from mmfeat.common.errors import ConfigError, OutputError, RunError
from mmfeat.data.manifest import Manifest
from mmfeat.data.review_table import read_answers
from mmfeat.project.audit_record import read_audit
from mmfeat.project.project import Project
from mmfeat.training import out_of_fold
from mmfeat.workflows.apply_review import apply_review, undo_review
from mmfeat.workflows.audit import AuditResult, audit

QUICK = {"fuse.head": "linear", "fuse.folds": 2, "fuse.seeds": 1}


@pytest.fixture(scope="module")
def audited(trained, tmp_path_factory) -> tuple[Path, AuditResult]:
    """A project that was audited once; for tests that only read it."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("audited") / "project")
    return folder, audit(Project(folder, QUICK))


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def with_manifest(project: Project, **changes) -> Project:
    """The project after its manifest has changed."""
    Manifest(**{**vars(project.manifest), **changes}).save(project.root / "manifest.parquet")
    return Project(project.root, QUICK)


# -- the files


def test_each_row_has_a_line_and_each_check_its_columns(audited):
    folder, result = audited
    rows, manifest = table(folder / "audit.csv"), Project(folder).manifest
    assert [row["id"] for row in rows] == manifest.ids.tolist()
    assert {row["split"] for row in rows} == {"train", "val", "unlabelled"}
    for one in result.summaries:
        names = {f"is_{one.check}_issue", f"{one.check}_score"}
        assert names <= set(rows[0]) if not one.skipped else not names & set(rows[0])
        if not one.skipped:
            listed = {row["id"] for row in rows if row[f"is_{one.check}_issue"] == "True"}
            assert listed == {finding.id for finding in result.findings if finding.check == one.check}
    scores = [float(row["label_score"]) for row in rows if row["label_score"]]
    assert len(scores) == sum(row["split"] != "unlabelled" for row in rows)
    assert all(0 <= score <= 1 for score in scores)


def test_the_record_holds_what_the_result_shows(audited):
    folder, result = audited
    record = read_audit(Project(folder))
    assert record == result.record
    assert record.stale == ""
    assert [one.check for one in record.summaries] == [check.name for check in all_checks()]
    assert {row["class"] for row in record.summary("label").table} == set(Project(folder).manifest.classes)


def test_the_table_to_review_is_applied_and_its_rows_are_not_asked_for_again(audited, tmp_path):
    folder = shutil.copytree(audited[0], tmp_path / "project")
    file, project = folder / "audit-review.csv", Project(folder)
    asked = table(file)
    assert asked
    text = file.read_text(encoding="utf-8-sig").splitlines()
    (folder / "filled.csv").write_text("\n".join([text[0], text[1] + asked[0]["model"]]) + "\n", encoding="utf-8")
    answers = read_answers(folder / "filled.csv", project.manifest.ids, project.manifest.classes, separator=" ")
    assert list(answers.given) == [asked[0]["id"]]
    apply_review(project, folder / "filled.csv")
    assert read_audit(Project(folder)).stale == "the manifest has changed since"
    again = audit(Project(folder, QUICK))
    assert again.made  # the labels are others than those that the run in folds learned
    assert asked[0]["id"] not in {row["id"] for row in table(file)}
    undo_review(Project(folder))
    assert not audit(Project(folder, QUICK)).made


def test_a_second_audit_trains_nothing_and_finds_the_same(audited, monkeypatch):
    folder, result = audited
    monkeypatch.setattr(out_of_fold, "fit_folds", None)
    again = audit(Project(folder, QUICK))
    assert not again.made
    assert again.findings == result.findings
    assert again.folded == result.folded


def test_a_file_that_was_changed_is_kept_without_overwrite(audited, tmp_path):
    folder = shutil.copytree(audited[0], tmp_path / "project")
    (folder / "audit-review.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"audit-review\.csv: has been changed .* --overwrite"):
        audit(Project(folder, QUICK))
    audit(Project(folder, QUICK), overwrite=True)
    assert table(folder / "audit-review.csv")


# -- its predictions


def test_the_named_run_decides_the_head_and_a_run_in_folds_is_used_as_it_is(own):
    first = audit(own.derived(settings=QUICK), "crossattn-1")
    assert first.made
    assert Project(own.root).runs_folder.joinpath(first.folded).is_dir()
    assert json.loads((own.runs_folder / first.folded / "run.json").read_text())["head"] == "crossattn"
    second = audit(own.derived(settings=QUICK), first.folded)
    assert (second.made, second.run, second.folded) == (False, first.folded, first.folded)


def test_an_encoder_alone_is_audited_by_a_head_on_it(own):
    found = audit(own.derived(settings=QUICK), "text")
    assert json.loads((own.runs_folder / found.folded / "run.json").read_text())["inputs"] == ["text"]
    assert next(one for one in found.summaries if one.check == "contradiction").skipped


def test_an_unknown_run_is_one_line(own):
    with pytest.raises(RunError, match="no run or encoder 'nothing-1'"):
        audit(own, "nothing-1")


# -- the exit code


def test_fail_on_a_finding_is_exit_code_3_and_the_files_are_written(audited, tmp_path):
    folder = shutil.copytree(audited[0], tmp_path / "project")
    (folder / "audit.csv").unlink()
    captions = Project(folder).manifest.captions.copy()
    captions[-1] = ""
    with_manifest(Project(folder), captions=captions)
    options = ["--folds", "2", "--set", "fuse.head=linear", "--set", "fuse.seeds=1"]
    done = run_cli("audit", *options, "--fail-on", "unreadable, empty_caption", "--json", cwd=folder, check=False)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert any("exit code 3" in line for line in found["lines"])
    assert (folder / "audit.csv").is_file()
    assert run_cli("audit", *options, "--fail-on", "unreadable", cwd=folder).returncode == 0


def test_a_check_that_was_skipped_does_not_pass(own):
    one = with_manifest(own, captions=np.full(own.manifest.n_samples, "", object))
    with pytest.raises(ConfigError, match="--fail-on contradiction: the check was skipped: needs predictions"):
        audit(one.derived(settings={"fuse.inputs": ["image"]}), fail_on=["contradiction"])


def test_an_unknown_check_is_one_line_with_the_nearest(own_folder):
    done = CliRunner().invoke(group, ["--project", str(own_folder), "audit", "--fail-on", "leakages"])
    assert isinstance(done.exception, ConfigError)
    assert "no check 'leakages'. Nearest: 'leakage'" in str(done.exception) or "Use some of: label" in str(
        done.exception
    )


# -- what is missing


def test_without_a_run_one_is_trained_which_is_said(extracted):
    done = run_cli("audit", "--folds", "2", "--set", "fuse.head=linear", cwd=extracted.root)
    assert "one is trained now, as by mmfeat fuse --head linear --folds 2" in done.stderr
    assert "out-of-fold predictions by run linear-1, which was trained now" in done.stdout


def test_a_project_without_features_is_audited_without_predictions(project):
    found = audit(project.derived(settings=QUICK))
    assert any("no out-of-fold predictions: " in note and "Run: mmfeat" in note for note in found.notes)
    assert next(one for one in found.summaries if one.check == "label").skipped
    assert not next(one for one in found.summaries if one.check == "empty_caption").skipped


def test_without_val_rows_label_errors_are_found_all_the_same(own):
    split = np.full(own.manifest.n_samples, "train", object)
    found = audit(with_manifest(own, split=split))
    assert not next(one for one in found.summaries if one.check == "label").skipped


def test_without_labels_the_other_checks_run(own):
    unknown = np.full_like(own.manifest.labels, -1)
    found = audit(with_manifest(own, labels=unknown))
    assert any("no row has a known label" in note for note in found.notes)
    assert next(one for one in found.summaries if one.check == "label").skipped


def test_more_folds_than_rows_skip_what_needs_them(own):
    labels = own.manifest.labels.copy()
    labelled = np.flatnonzero(labels.max(1) >= 0)
    labels[labelled[3:]] = -1
    found = audit(with_manifest(own, labels=labels).derived(settings={"fuse.folds": 20}))
    assert any("fuse.folds = 20 needs more than" in note for note in found.notes)
    assert next(one for one in found.summaries if one.check == "label").skipped


def test_images_that_are_gone_are_findings(own):
    images = own.manifest.images.copy()
    images[0] = "gone.jpg"
    found = audit(with_manifest(own, images=images))
    gone = [finding for finding in found.findings if finding.check == "unreadable"]
    assert [finding.id for finding in gone] == [own.manifest.ids[0]]
    assert gone[0].detail
