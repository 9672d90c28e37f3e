"""`mmfeat review --serve` and `--format`: what is shown, what is written, and what comes back."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from helpers.command_line import run_cli

import mmfeat as mf
from mmfeat.audit.findings import Finding, Summary
from mmfeat.common.errors import ConfigError, DataError, MmfeatError, RunError
from mmfeat.common.exclusive import alone_in
from mmfeat.data.review_journal import ReviewJournal
from mmfeat.inference.review_work import review_work
from mmfeat.project.applied_reviews import apply_review, undo_review
from mmfeat.project.audit_record import AuditRecord, write_audit
from mmfeat.project.project import Project
from mmfeat.workflows import serve_review as served
from mmfeat.workflows.review import review
from mmfeat.workflows.serve_review import serve_review


def finding(sample: str, check: str = "label", **more) -> Finding:
    return Finding(check=check, id=sample, score=0.1, detail=f"{check} of {sample}", **more)


def audited(project: Project, *findings: Finding) -> None:
    summaries = (Summary(check="label", title="label errors"), Summary(check="near_duplicate", title="near-duplicates"))
    write_audit(project, AuditRecord(summaries=summaries, findings=findings))


# -- which rows


def test_questioned_labels_come_first_then_the_queue_and_other_findings_each_row_once(own):
    manifest = own.manifest
    a, b = manifest.ids[manifest.rows("train")[:2]].tolist()
    queued = [item.id for item in review_work(own, None, n=5, split="train").items]
    classes, given = manifest.classes, ("circle",)
    audited(
        own,
        finding(a, class_name=classes[1], given=given, proposed=(*given, classes[1])),
        finding(a, class_name=classes[2], given=given, proposed=(*given, classes[2])),
        finding(b, check="near_duplicate", related=(a,), given=given, proposed=(classes[3],)),
        finding(a, check="near_duplicate", given=given, proposed=()),
        finding(queued[0], check="near_duplicate"),
        finding("gone"),
    )
    work = review_work(own, None, n=5, split="train")
    ids = [item.id for item in work.items]
    assert ids == list(dict.fromkeys([a, *queued, b]))
    first, other = work.items[0], next(item for item in work.items if item.id == b)
    assert {classes[1], classes[2]} <= set(first.proposed)  # of both label errors, and not of the copies
    assert [reason.kind for reason in first.reasons[:2]] == ["label errors", "label errors"]
    assert other.reasons[-1].related == (a,)
    assert {reason.kind for reason in work.items[1].reasons} == {"near-duplicates", "contradicted label"}
    assert work.items[0].probabilities
    assert [note.partition(":")[0] for note in work.notes] == ["In-sample for 45 of 45 rows"]


def test_rows_of_test_and_corrected_rows_are_left_out(own_folder):
    project = Project(own_folder)
    manifest = project.manifest
    a, b, c = manifest.ids[manifest.rows("train")[:3]].tolist()
    manifest.split[manifest.ids == b] = "test"
    (own_folder / "corrections.csv").write_text(f"id,labels\n{c},circle\n")
    audited(project, *map(finding, (a, b, c)))
    ids = [item.id for item in review_work(project, None, n=1, split="unlabelled", answered=[b]).items]
    assert a in ids
    assert c not in ids
    assert ids.count(b) == 1  # it was answered before


def test_an_audit_needs_no_run_and_without_both_there_is_nothing_to_look_at(project):
    with pytest.raises(RunError, match="no run yet"):
        review_work(project, None, n=5, split="train")
    audited(project, finding(project.manifest.ids[0]))
    work = review_work(project, None, n=5, split="train")
    assert len(work.items) == 1
    assert work.notes[0].startswith("No row of a queue: no run yet. Run: mmfeat")
    (project.root / "audit.json").write_text("{}")
    with pytest.raises(DataError, match="Run: mmfeat audit"):
        review_work(project, None, n=5, split="train")


def test_an_audit_that_is_out_of_date_says_so(own_folder):
    project = Project(own_folder)
    audited(project, finding(project.manifest.ids[0]))
    answers = own_folder / "a.csv"
    answers.write_text(f"id,labels\n{project.manifest.ids[1]},circle\n")
    apply_review(project, answers)
    work = review_work(Project(own_folder), None, n=5, split="train")
    assert work.notes[0] == "The audit is out of date: the manifest has changed since. Run: mmfeat audit"


def test_a_class_that_corrections_cannot_hold_is_named_before_anything_is_answered(own):
    manifest = own.manifest
    named = dataclasses.replace(manifest, classes=("two words", *manifest.classes[1:]))
    audited(own, finding(manifest.ids[0]))
    notes = review_work(own.derived(manifest=named), "no-run", n=2, split="train").notes
    assert notes[-1].startswith(
        "Label 'two words' has the separator ' ' in its name, so corrections.csv cannot hold it."
    )


# -- the command


@pytest.fixture
def at_once(monkeypatch):
    """A server that ends as soon as it runs; what it would have served."""
    opened = SimpleNamespace(urls=[], ran=0)

    def server_of(app, **_):
        def run(sockets):
            opened.ran += 1

        return SimpleNamespace(config=SimpleNamespace(backlog=5), run=run, should_exit=False)

    monkeypatch.setattr(served, "server_of", server_of)
    monkeypatch.setattr(served.webbrowser, "open", opened.urls.append)
    monkeypatch.setenv("DISPLAY", ":0")
    return opened


def test_the_page_is_opened_by_a_code_and_not_by_its_token(own, at_once, capsys):
    result = serve_review(own, n=3)
    assert (at_once.ran, result.n_rows, result.n_pending) == (1, 3, 0)
    said = capsys.readouterr().err
    assert "3 rows to look at: http://127.0.0.1:" in said
    token = said.partition("token=")[2].split()[0]
    assert len(at_once.urls) == 1
    assert "/open?code=" in at_once.urls[0]
    assert token not in at_once.urls[0]
    serve_review(own, n=3, browser=False)
    assert len(at_once.urls) == 1


def test_answers_that_were_not_applied_are_shown_again_and_named_at_the_end(own, at_once):
    sample = own.manifest.ids[own.manifest.rows("train")[0]]
    journal = ReviewJournal(own.root / "review.jsonl")
    journal.add(sample, ["circle"])
    journal.close()
    result = serve_review(own, n=3)
    assert (result.n_rows, result.n_pending) == (4, 1)
    assert result.made == "review.jsonl has 1 answer to apply."
    assert result.after.startswith("mmfeat review --apply ")
    done = run_cli("review", "--apply", "review.jsonl", cwd=own.root)
    assert "Applied 1 answer of review.jsonl" in done.stdout
    done = run_cli("review", "--serve", "--no-browser", "--n", "3", cwd=own.root)
    assert done.stdout == "No row was answered. Next: mmfeat review --serve\n"
    assert undo_review(Project(own.root)).made == (
        "Undid 1 answer of review.jsonl: corrections.csv and manifest.parquet are as before."
    )


def test_what_is_wrong_with_a_page_is_one_line(own, at_once, monkeypatch):
    with (
        pytest.raises(MmfeatError, match="another mmfeat review --serve is running"),
        alone_in(own.memory / "review-page", "x"),
    ):
        serve_review(own)
    file = own.root / "review.jsonl"
    for content, says in (
        ("id,labels\n", "is not a file of answers of mmfeat review --serve"),
        (_journal("no such row", []), "no row 'no such row' in the manifest"),
        (_journal(own.manifest.ids[0], ["dgo"]), "'dgo' is not among the 10 classes"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=says):
            serve_review(own)
        assert file.read_text() == content
    file.unlink()
    with pytest.raises(MmfeatError, match="which is never written over"):
        serve_review(own, out=own.root / "manifest.parquet")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError, match="pip install 'mmfeat\\[serve\\]'"):
        serve_review(own)


def _journal(sample: str, labels: list[str]) -> str:
    head = {"mmfeat": "answers of mmfeat review --serve", "format": 1}
    return f"{json.dumps(head)}\n{json.dumps({'revision': 1, 'id': sample, 'labels': labels, 'time': ''})}\n"


# -- other tools


def test_a_review_goes_to_label_studio_and_comes_back(own):
    done = run_cli("review", "--format", "label-studio", "--n", "4", cwd=own.root)
    assert "labeling interface of review.xml" in done.stdout
    assert done.stdout.endswith("Next: mmfeat review --apply EXPORT.json\n")
    tasks = json.loads((own.root / "review.json").read_text())
    assert [len(task["predictions"]) for task in tasks] == [1] * 4
    assert all(task["data"]["image"].startswith("data:image/jpeg;base64,/9j/") for task in tasks)
    result = [{"from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": ["circle", "moon"]}}]
    tasks[0]["annotations"], tasks[1]["annotations"] = [{"result": result}], [{"result": []}]
    export = own.root / "export.json"
    export.write_text(json.dumps(tasks))
    before = (own.root / "manifest.parquet").read_bytes()
    applied = apply_review(own, export)
    assert applied.made.startswith("Applied 2 answers of export.json")
    text = "\n".join(applied.lines)
    assert "labelled" in text
    assert "blank          2" in text
    assert (own.root / "corrections.csv").read_text().splitlines()[1] == f"{tasks[0]['data']['mmfeat_id']},circle moon"
    undo_review(Project(own.root))
    assert (own.root / "manifest.parquet").read_bytes() == before


def test_a_review_goes_to_coco_and_comes_back(own):
    made = review(own, n=4, format="coco")
    assert (made.file.name, made.config) == ("review.json", None)
    content = json.loads(made.file.read_text())
    with pytest.raises(DataError, match="no row is filled in"):
        apply_review(own, made.file)
    assert {(image["width"], image["height"]) for image in content["images"]} == {(64, 64)}
    content["images"][2]["reviewed"] = True
    content["annotations"] = []
    made.file.write_text(json.dumps(content))
    assert apply_review(own, made.file).made.startswith("Applied 1 answer of review.json")
    with pytest.raises(MmfeatError, match="has been changed since mmfeat wrote it"):
        review(Project(own.root), n=4, format="coco")
    with pytest.raises(ConfigError, match="format 'yolo': use one of: csv, label-studio, coco"):
        review(own, format="yolo")


def test_a_mistake_in_an_export_is_one_line_and_changes_nothing(own):
    export = own.root / "export.json"
    before = (own.root / "manifest.parquet").read_bytes()
    for content, says in (
        ("{", "not JSON that can be read"),
        ('[{"data": {"mmfeat_id": "r"}, "annotations": [{"result": []}]}]', "task 1: no row 'r' in the manifest"),
    ):
        export.write_text(content)
        done = run_cli("review", "--apply", "export.json", cwd=own.root, check=False)
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, "")
        assert says in done.stderr
    assert (own.root / "manifest.parquet").read_bytes() == before
    assert not (own.root / "corrections.csv").exists()


def test_from_python_a_page_is_served_and_arguments_without_effect_are_refused(own_folder, at_once):
    p = mf.Project(own_folder, progress=False)
    assert p.review(format="coco", n=2).n_rows == 2
    assert repr(p.review(serve=True, n=2, no_browser=True)) == "No row was answered."
    for arguments in (
        {"port": 1},
        {"no_browser": True},
        {"serve": True, "format": "coco"},
        {"serve": True, "overwrite": True},
    ):
        with pytest.raises(ConfigError, match="Leave them out"):
            p.review(**arguments)
