"""The server of the review page: who may enter, what is saved, and what is refused."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil

import pytest
from helpers.review_page import items_of, reviewing

from mmfeat.data.review_files import read_review
from mmfeat.data.review_journal import ReviewJournal
from mmfeat.project.applied_reviews import undo_review
from mmfeat.project.project import Project


@pytest.fixture(scope="module")
def folder(session_project, tmp_path_factory):
    return shutil.copytree(session_project, tmp_path_factory.mktemp("page") / "project")


@pytest.fixture(scope="module")
def page(folder):
    project = Project(folder)
    with reviewing(project, items_of(project, 30), notes=["a note"]) as page:
        yield page


@pytest.fixture
def fresh(project):
    with reviewing(project, items_of(project, 12)) as page:
        yield page


DATA = (
    "/",
    "/api/overview",
    "/api/details?first=0",
    "/api/changes?since=0",
    "/api/thumbnail/0",
    "/api/picture/0",
    "/review.html",
)


@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("token", [None, "", "wrong", "é", "x" * 5000])
def test_nothing_is_shown_without_the_token(page, path, token):
    status, answer, _ = page.ask("GET", path, x_mmfeat_token=token and token.encode().decode("latin-1"))
    assert (status, answer["detail"][:16]) == (403, "open the address")
    status, answer, _ = page.ask("POST", "/api/apply", x_mmfeat_token=token and token.encode().decode("latin-1"))
    assert status == 403


def test_the_token_is_in_the_address_of_the_page_alone(page):
    token = page.entrance.token
    assert len(token) >= 40
    status, content, headers = page.ask("GET", f"/?token={token}", x_mmfeat_token=None)
    assert (status, b"<title>mmfeat review</title>" in content) == (200, True)
    assert "set-cookie" not in headers
    assert page.ask("GET", f"/api/overview?token={token}", x_mmfeat_token=None)[0] == 403
    assert page.ask("GET", f"/?token={token[:-1]}x", x_mmfeat_token=None)[0] == 403
    assert page.ask("GET", "/main.js", x_mmfeat_token=None)[0] == 200
    assert page.ask("GET", "/nothing.js")[0] == 404


def test_a_code_opens_the_page_once(page):
    code = page.entrance.code
    assert page.ask("GET", "/open?code=wrong", x_mmfeat_token=None)[0] == 403
    status, _, headers = page.ask("GET", f"/open?code={code}", x_mmfeat_token=None)
    assert (status, headers["location"]) == (303, f"/?token={page.entrance.token}")
    assert page.ask("GET", f"/open?code={code}", x_mmfeat_token=None)[0] == 403
    assert page.ask("GET", "/open?code=", x_mmfeat_token=None)[0] == 403


def test_other_hosts_and_origins_are_refused_and_no_page_elsewhere_may_read(page):
    status, answer, _ = page.ask("GET", "/api/overview", Host="rebound.example:80")
    assert (status, answer["detail"]) == (421, "this server does not answer to the name 'rebound.example:80'.")
    status, answer, headers = page.ask("POST", "/api/apply", Origin="https://evil.example")
    assert (status, answer["detail"]) == (403, "pages of 'https://evil.example' may not ask here.")
    for method in ("GET", "OPTIONS"):
        asked = {"Origin": f"http://127.0.0.1:{page.port}", "Access_Control_Request_Method": "POST"}
        status, _, headers = page.ask(method, "/api/overview", **asked)
        assert status == (200 if method == "GET" else 405)
        assert not [name for name in headers if name.startswith("access-control")]


def test_every_answer_has_the_headers_of_safety(page):
    for path in (*DATA, "/main.js", "/style.css", "/icon.svg", "/api/details?first=-1", "/nothing"):
        headers = page.ask("GET", path)[2]
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_rows_are_shown_in_short_and_in_full(page, folder):
    _, overview, _ = page.ask("GET", "/api/overview")
    manifest = Project(folder).manifest
    assert overview["ids"] == manifest.ids[:30].tolist()
    assert overview["classes"] == list(manifest.classes)
    assert overview["kinds"] == ["uncertain", "label errors"]
    assert overview["notes"] == ["a note"]
    _, rows, _ = page.ask("GET", "/api/details?first=28&n=5")
    assert [row["id"] for row in rows] == manifest.ids[28:30].tolist()
    assert rows[0]["caption"] == manifest.captions[28]
    assert rows[0]["probabilities"] == [[28 % len(manifest.classes), 0.75]]
    for path in ("first=-1", "first=0&n=51", "first=x", "n=1"):
        assert page.ask("GET", f"/api/details?{path}")[0] == 422


def test_pictures_are_jpegs_made_here(page, folder):
    for path in ("/api/thumbnail/3", "/api/picture/3"):
        status, content, headers = page.ask("GET", path)
        assert (status, headers["content-type"], content[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
    assert page.ask("GET", "/api/thumbnail/100000")[0] == 404
    assert page.ask("GET", "/api/thumbnail/-1")[0] == 404


def test_similar_rows_are_those_of_a_search(page, own):
    status, answer, _ = page.ask("GET", "/api/similar?at=0")
    assert (status, "Run: mmfeat extract" in answer["detail"]) == (422, True)  # nothing is encoded
    assert page.ask("GET", "/api/similar?at=1000")[0] == 404
    own.manifest.split[own.manifest.rows("val")[0]] = "test"
    hidden = own.manifest.ids[own.manifest.split == "test"]
    with reviewing(own, items_of(own, 3)) as trained:
        status, found, _ = trained.ask("GET", "/api/similar?at=0")
    scores = [one["score"] for one in found]
    assert (status, len(found), scores) == (200, 12, sorted(scores, reverse=True))
    assert not {own.manifest.ids[0], *hidden} & {one["id"] for one in found}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"id": "no such row", "labels": [], "seen": 0}, 422, "no row or class 'no such row'"),
        ({"labels": ["<script>"], "seen": 0}, 422, "no row or class '<script>'"),
        ({"labels": "circle", "seen": 0}, 422, "labels: Input should be a valid array"),
        ({"labels": [], "seen": -1}, 422, "seen: "),
        ({"labels": [], "seen": True}, 422, "seen: "),
        ({"labels": [], "seen": 0, "force": True}, 422, "force: no such field. There are: id, labels, seen, undo"),
        (b"{", 400, "Invalid JSON"),
        (b'{"id": "' + b"x" * 3_000_000, 413, "the body is larger than 2 MB"),
        (b"", 400, "Invalid JSON"),
    ],
)
def test_what_is_wrong_is_one_line_and_saves_nothing(page, body, status, says):
    before = page.file.read_bytes()
    if isinstance(body, dict):
        body = {"id": page.ask("GET", "/api/overview")[1]["ids"][0], **body}
    found, answer, _ = page.ask("POST", "/api/answer", body)
    assert (found, says in answer["detail"]) == (status, True), answer
    assert answer["detail"].isprintable()
    assert page.file.read_bytes() == before


def test_an_answer_is_in_the_file_when_it_is_confirmed(fresh, project):
    ids, (first, second) = project.manifest.ids, project.manifest.classes[:2]
    status, now = fresh.answer(ids[0], [second, first, second], 0)
    assert (status, now) == (200, {"row": 0, "revision": 1, "labels": [0, 1], "n_pending": 1})
    assert read_review(fresh.file, project.manifest, separator=" ").given == {ids[0]: [first, second]}
    assert fresh.answer(ids[1], [], 0)[1]["revision"] == 2
    assert fresh.answer(ids[0], None, 1, undo=True)[1]["revision"] == 3
    assert read_review(fresh.file, project.manifest, separator=" ").given == {ids[1]: []}
    assert fresh.ask("GET", "/api/changes?since=1")[1] == {
        "revision": 3,
        "answers": [[0, 3, None], [1, 2, []]],
        "n_pending": 1,
    }
    state = fresh.ask("GET", "/api/overview")[1]["state"]
    assert state["history"] == [[1, None]]


def test_of_two_pages_the_second_is_told_and_nothing_is_lost(fresh, project):
    sample, (first, second) = project.manifest.ids[0], project.manifest.classes[:2]
    assert fresh.answer(sample, [first], 0)[0] == 200
    status, now = fresh.answer(sample, [second], 0)
    assert (status, now["labels"], now["revision"]) == (409, [0], 1)
    assert fresh.answer(sample, [first], 0)[0] == 200  # the same answer is no conflict
    assert fresh.answer(sample, [second], 1) == (200, {"row": 0, "revision": 2, "labels": [1], "n_pending": 1})
    labels = [one["labels"] for one in map(json.loads, fresh.file.read_text().splitlines()[1:])]
    assert labels == [[first], [second]]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_on_a_full_disk_nothing_is_confirmed_and_the_file_stays_whole(fresh, project, monkeypatch, call):
    sample = project.manifest.ids[0]
    fresh.answer(sample, [], 0)
    before, real = fresh.file.read_bytes(), getattr(os, call)

    def full(descriptor, *rest):
        if os.path.samefile(f"/proc/self/fd/{descriptor}", fresh.file):
            if call == "write":
                real(descriptor, rest[0][:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        status, answer = fresh.answer(sample, None, 1)
    assert (status, "No space left" in answer["detail"]) == (507, True)
    assert fresh.file.read_bytes() == before
    assert fresh.answer(sample, None, 1)[0] == 200


def test_answers_are_applied_and_taken_back_as_a_table_is(fresh, project):
    ids, first = project.manifest.ids, project.manifest.classes[0]
    before = (project.root / "manifest.parquet").read_bytes()
    unlabelled = project.manifest.rows("unlabelled")[0]
    row = ids[unlabelled]
    assert row not in ids[:12]
    fresh.answer(ids[0], [first], 0)
    fresh.answer(ids[1], [], 0)
    status, made, _ = fresh.ask("POST", "/api/apply")
    assert (status, made["n_pending"]) == (200, 0)
    assert made["made"].startswith("Applied 2 answers of review.jsonl: corrections.csv and manifest.parquet")
    with (project.root / "corrections.csv").open() as opened:
        assert list(csv.reader(opened)) == [["id", "labels"], [ids[0], first], [ids[1], ""]]
    assert fresh.answer(ids[1], [first], 2)[1]["n_pending"] == 1
    assert undo_review(Project(project.root)).changed
    assert (project.root / "manifest.parquet").read_bytes() == before
    assert not (project.root / "corrections.csv").exists()


def test_a_page_goes_on_where_the_last_one_ended(project):
    items, (first, second) = items_of(project, 12), project.manifest.classes[:2]
    with reviewing(project, items) as page:
        page.answer(items[0].id, [first], 0)
        page.answer(items[0].id, [second], 1)
        page.answer(items[1].id, [], 0)
    with reviewing(project, items) as page:
        state = page.ask("GET", "/api/overview")[1]["state"]
        assert state == {
            "revision": 3,
            "answers": [[0, 2, [1]], [1, 3, []]],
            "history": [[0, None], [0, [0]], [1, None]],
            "n_pending": 2,
        }
        page.ask("POST", "/api/apply")
    with reviewing(project, items) as page:  # all are applied: a new file
        assert page.ask("GET", "/api/overview")[1]["state"]["answers"] == []
    journal = ReviewJournal(page.file)
    assert journal.revision == 0
    journal.close()
