"""`mmfeat review`: which rows are asked for, the table, and what becomes of the answers."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.interruption import DyingRename, Killed
from helpers.tables import split_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mmfeat.cli import group

from mmfeat.common.csv_text import harmless, unharmed
from mmfeat.common.errors import DataError
from mmfeat.data.corrections import add_answers
from mmfeat.data.manifest import Manifest
from mmfeat.data.review_table import NO_LABELS, read_answers, review_bytes
from mmfeat.inference.row_ranking import NEAR, contradiction, disagreement, entropy, shortlist, spread, uncertainty
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.apply_review import apply_review, undo_review
from mmfeat.workflows.review import review

# -- which rows


def test_uncertainty_is_a_bit_at_the_threshold_and_less_on_both_sides():
    threshold = np.array([0.5, 0.2])
    bits = uncertainty(np.array([[0.5, 0.2], [0.6, 0.3], [0.4, 0.1], [1.0, 0.0]], np.float32), threshold)
    assert np.allclose(bits[0], 1)
    assert (bits[1:3] < 1).all()
    assert bits[1, 0] == pytest.approx(bits[2, 0])
    assert np.allclose(bits[3], 0, atol=1e-4)
    assert np.allclose(uncertainty(np.full((1, 2), 0.3, np.float32)), entropy(np.full((1, 2), 0.3)))
    assert np.isfinite(uncertainty(np.array([[0.0, 1.0]]), np.array([1.0, 0.0]))).all()


def test_disagreement_is_none_among_equals_and_a_bit_between_opposites():
    yes, no, half = (np.full((1, 3), p) for p in (1.0, 0.0, 0.5))
    known = np.ones((2, 1), bool)
    assert np.allclose(disagreement(np.stack([yes, no]), known), 1)
    assert np.allclose(disagreement(np.stack([half, half]), known), 0)
    assert 0 < disagreement(np.stack([half, yes]), known)[0, 0] < 1
    alone = known.copy()
    alone[1] = False
    assert np.allclose(disagreement(np.stack([yes, np.full((1, 3), np.nan)]), alone), 0)
    assert np.allclose(disagreement(np.stack([yes, no]), ~known), 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_disagreement_is_within_a_bit_and_of_no_order(seed, m):
    rng = np.random.default_rng(seed)
    opinions, known = rng.random((m, 9, 3)), rng.random((m, 9)) < 0.7
    bits = disagreement(opinions, known)
    assert ((bits >= 0) & (bits <= 1 + 1e-12)).all()
    assert np.allclose(bits, disagreement(opinions[::-1], known[::-1]))
    assert np.allclose(bits[known.sum(0) < 2], 0)


def test_only_known_labels_that_the_model_decides_otherwise_are_contradicted():
    probs = np.array([[0.9, 0.9, 0.9, 0.3]])
    found = contradiction(probs, np.array([[1, 1, 1, 1]], np.int8), np.array([[1, 0, -1, 0]], np.int8))
    assert found.tolist() == [[0, pytest.approx(0.9), 0, pytest.approx(0.3)]]


def shapes(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Worth, points and numbers of n rows."""
    rng = np.random.default_rng(seed)
    return rng.random(n) + 0.01, rng.standard_normal((n, 8)).astype(np.float32), rng.permutation(n).astype(np.uint64)


def asked(worth: np.ndarray, points: np.ndarray, numbers: np.ndarray, n: int) -> list[int]:
    listed = shortlist(worth, numbers, len(worth))
    return numbers[listed[spread(worth[listed], points[listed], n)]].tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_same_rows_in_any_order_and_the_first_of_many_are_those_of_few(seed):
    worth, points, numbers = shapes(seed)
    many = asked(worth, points, numbers, 20)
    assert len(set(many)) == 20
    assert many[:7] == asked(worth, points, numbers, 7)
    order = np.random.default_rng(seed + 1).permutation(len(worth))
    assert asked(worth[order], points[order], numbers[order], 20) == many
    assert many[0] == numbers[worth.argmax()]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rows_are_taken_as_if_all_were_compared_each_time(seed):
    worth, points, _ = shapes(seed)
    points[30:] = points[:30] + 0.3 * points[30:]  # some are rather near
    usual, novelty, taken = 2 * ((points - points.mean(0)) ** 2).sum(1).mean(), np.ones(60), []
    while (novelty > NEAR).any() and len(taken) < 40:
        taken.append(int(np.argmax(np.where(novelty > NEAR, worth * novelty, 0))))
        novelty = np.minimum(novelty, ((points - points[taken[-1]]) ** 2).sum(1) / usual)
    assert spread(worth, points, 40).tolist() == taken


def test_a_row_that_lies_there_twice_is_asked_for_once():
    worth, points, _ = shapes(1)
    twice = [np.concatenate([x, x]) for x in (worth, points)]
    twice[1][60:] += 1e-3  # nearly
    listed = spread(*twice, 120)
    assert len(listed) == len(set((listed % 60).tolist())) == 60
    same = spread(np.ones(5), np.ones((5, 3), np.float32), 5)
    assert same.tolist() == [0]
    assert len(spread(np.zeros(3), points[:3], 3)) == 0
    assert len(spread(np.zeros(0), points[:0], 3)) == 0


def test_without_likeness_the_rows_of_highest_worth_are_asked_for():
    worth = np.array([0.1, 0.9, 0.5, 0.0])
    assert shortlist(worth, np.arange(4), 4).tolist() == [1, 2, 0]
    assert shortlist(np.ones(3), np.array([3, 1, 2]), 2).tolist() == [1, 2]
    assert spread(worth, 100 * np.eye(4, dtype=np.float32), 2).tolist() == [1, 2]


def test_of_24_000_rows_they_are_found_at_once():
    rng = np.random.default_rng(0)
    probs = rng.random((24_000, 18)).astype(np.float32)
    opinions, known = rng.random((2, 24_000, 18)).astype(np.float32), np.ones((2, 24_000), bool)
    points, start = rng.standard_normal((1000, 1664)).astype(np.float32), time.process_time()
    worth = (uncertainty(probs, 0.5) + disagreement(opinions, known)).sum(1)
    listed = shortlist(worth, np.arange(24_000), 1000)
    assert len(spread(worth[listed], points, 50)) == 50
    assert time.process_time() - start < 2


# -- the table


@settings(max_examples=60, deadline=None)
@given(st.text("=+-@' \t\r\n\uff1dx1", max_size=6))
def test_no_cell_is_a_formula_and_all_read_back(text):
    cell = harmless(text)
    assert unharmed(cell) == text
    assert cell.lstrip()[:1] not in tuple("=+-@") or re.fullmatch(r"[+-][0-9]+", cell)  # a number is none
    assert cell[:1] not in tuple("\t\r\n")


def cells(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_cells_survive_the_table():
    texts = ["=HYPERLINK(1)", "+1", "-", "@x", "'=x", ' "a", b\nc\r\nd', "\tx", "é", ""]
    read = cells(review_bytes({"id": texts, "why": texts[::-1]}))
    assert read[0] == ["id", "why", "labels"]
    assert [[unharmed(a), unharmed(b), c] for a, b, c in read[1:]] == [
        [a, b, ""] for a, b in zip(texts, texts[::-1], strict=True)
    ]


def fill(file: Path, answers: dict[str, str], text: str = "id,why,labels", between: str = ",") -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, delimiter=between)
        writer.writerow(text.split(","))
        writer.writerows([harmless(sample), "because", answer] for sample, answer in answers.items())
    return file


CLASSES = ("bird", "cat", "dog")


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_answers_are_read_however_they_are_separated(tmp_path, between):
    said = {"r0": "dog cat", "r1": "cat; dog", "r2": " bird ", "=r3": "-", "r4": "", "r5": "None", "r6": "dog;;dog"}
    found = read_answers(fill(tmp_path / "f.csv", said, between=between), list(said), CLASSES, separator=" ")
    assert found.given == {
        "r0": ["cat", "dog"],
        "r1": ["cat", "dog"],
        "r2": ["bird"],
        "=r3": [],
        "r5": [],
        "r6": ["dog"],
    }
    assert found.n_blank == 1


def test_classes_may_have_any_name(tmp_path):
    classes = ("-", "=x", "a;b", "none", "two words")
    said = {"r0": "-", "r1": "none", "r2": "(none)", "r3": "two words;'=x", "r4": "=x, a", "r5": "a;b"}
    file = fill(tmp_path / "f.csv", {k: v for k, v in said.items() if k != "r4"})
    found = read_answers(file, list(said), classes, separator="|").given
    assert found == {"r0": ["-"], "r1": ["none"], "r2": [], "r3": ["=x", "two words"], "r5": ["a;b"]}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("r0,,dgo", ":2: row 'r0': 'dgo' is not among the 3 classes. Nearest: 'dog'. None of them at all: -"),
        ("r0,,cat\nr1,,DOG", ":3: row 'r1': 'DOG' is not among the 3 classes. Nearest: 'dog'"),
        ("r0,,\nr00,,dog", ":3: no row 'r00' in the manifest. Nearest: 'r0'"),
        (",,dog", ":2: the id is blank"),
        ("r0,,dog\nr0,,", None),
        ("r0,,dog\nr0,,cat", ":3: repeats the id 'r0' of line 2"),
        ("r9,,\n,,", None),
        ("r0,dog", ":2: 2 cells under a header of 3"),
        ("r0,,\x1b[31m", r"'\x1b[31m' is not among"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, rows, says):
    file = tmp_path / "f.csv"
    file.write_text(f"id,why,labels\n{rows}\n", encoding="utf-8")
    if says is None:
        read_answers(file, ["r0", "r1"], CLASSES, separator=" ")
        return
    with pytest.raises(DataError) as error:
        read_answers(file, ["r0", "r1"], CLASSES, separator=" ")
    assert str(error.value).startswith(str(file))
    assert says in str(error.value)
    assert str(error.value).isprintable()


def test_further_corrections_join_those_there_are(tmp_path):
    file = tmp_path / "corrections.csv"
    assert add_answers(file, {"r0": ["cat"], "r1": []}, {}, separator=" ") == b"id,labels\nr0,cat\nr1,\n"
    file.write_bytes(b"\xef\xbb\xbfwhy,ImageID,labels\r\nblurred,r0,cat dog\r\n,r1,cat\r\n")
    columns = {"id": "ImageID", "labels": "Labels"}
    assert add_answers(file, {"r0": ["dog", "cat"]}, columns, separator=" ") == file.read_bytes()
    merged = add_answers(file, {"r1": ["dog"], "r2": []}, columns, separator=" ")
    assert merged == b"\xef\xbb\xbfwhy,ImageID,labels\r\nblurred,r0,cat dog\r\n,r1,dog\r\n,r2,\r\n"
    with pytest.raises(DataError, match=r"label 'a b' has the separator ' ' in its name"):
        add_answers(file, {"r1": ["a b"]}, columns, separator=" ")


# -- applied and taken back


def made(folder: Path, n: int = 60) -> Path:
    """A project of n labelled and n unlabelled rows, of two groups' kinds, without any feature."""
    folder.mkdir(exist_ok=True)
    lines = [f"r{i},caption {i},{('cat', 'dog')[i % 2]},g{i // 4}" for i in range(n)]
    lines += [f"u{i},about {i},,{f'g{i}' if i % 3 == 0 else ''}" for i in range(n)]
    (folder / "t.csv").write_text("\n".join(["id,caption,labels,product", *lines]) + "\n", encoding="utf-8")
    if not (folder / "manifest.parquet").exists():
        init(folder, str(folder / "t.csv"), val=0.25, group_column="product")
    return folder


def state(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in os.listdir(folder) if (folder / name).is_file()}


SAID = {**{f"u{i}": ("cat", "dog", "-", "cat dog")[i % 4] for i in range(30)}, "r0": "dog", "r1": "dog", "u50": ""}


@pytest.mark.parametrize("there", ["", "id,labels\nr2,dog\nu3,cat\n"])
def test_applied_is_what_init_makes_of_the_same_corrections(tmp_path, there):
    a, b = made(tmp_path / "a"), made(tmp_path / "b")
    for folder in (a, b):
        if there:
            (folder / "corrections.csv").write_text(there)
            init(folder)
    before, split = state(a), split_of(a)
    file = fill(tmp_path / "review.csv", SAID)
    result = apply_review(Project(a), file)
    assert result.changed
    kept = {row[0]: row[1] for row in cells((a / "corrections.csv").read_bytes())[1:]}
    assert kept["u0"] == "cat"
    assert kept["u2"] == ""
    assert kept.get("r2") == ("dog" if there else None)
    (b / "corrections.csv").write_bytes((a / "corrections.csv").read_bytes())
    init(b)
    assert (a / "manifest.parquet").read_bytes() == (b / "manifest.parquet").read_bytes()
    assert (a / "init.log").read_text() == (b / "init.log").read_text()
    assert init(a).unchanged
    now = split_of(a)
    labelled = {sample for sample in split if sample.startswith("r") or (there and sample == "u3")}
    assert {s: now[s] for s in labelled} == {s: split[s] for s in labelled}
    manifest = Manifest.load(a / "manifest.parquet")
    rows = {sample: manifest.labels[row].tolist() for row, sample in enumerate(manifest.ids)}
    assert (rows["u0"], rows["u1"], rows["u2"], rows["u50"]) == ([1, 0], [0, 1], [0, 0], [-1, -1])
    text = "\n".join(result.lines)
    assert f"labelled      {29 if there else 30}" in text
    assert f"changed        {2 if there and SAID['u3'] != 'cat' else 1}" in text
    assert "same           1" in text
    assert "blank          1" in text
    again = apply_review(Project(a), file)
    assert not again.changed
    assert again.made.startswith("Nothing to do")
    assert undo_review(Project(a)).made.startswith("Undid 32 answers")
    assert state(a) == before
    with pytest.raises(DataError, match=r"there is no applied review to undo"):
        undo_review(Project(a))


def test_one_review_after_another_is_taken_back_in_turn(tmp_path):
    folder, states = made(tmp_path / "a"), []
    for number, said in enumerate([{"u0": "cat"}, {"u0": "dog", "u1": "dog"}, {"r0": "dog"}]):
        states.append(state(folder))
        apply_review(Project(folder), fill(tmp_path / f"{number}.csv", said))
    while states:
        undo_review(Project(folder))
        assert state(folder) == states.pop()
    assert {path.name for path in (folder / "reviews").iterdir()} == {"undone-1", "undone-2", "undone-3"}
    assert (folder / "reviews" / "undone-3" / "filled-in.csv").read_bytes() == (tmp_path / "0.csv").read_bytes()


def test_a_mistake_applies_nothing(tmp_path):
    folder = made(tmp_path / "a")
    before = state(folder)
    for said, says in (
        ({"u0": "cat", "u1": "dgo"}, "csv:3: row 'u1': 'dgo' is not among the 2 classes"),
        ({"u0": ""}, "no row is filled in"),
    ):
        with pytest.raises(DataError, match=says):
            apply_review(Project(folder), fill(tmp_path / "f.csv", said))
    (folder / "t.csv").rename(folder / "gone.csv")  # then init fails
    with pytest.raises(DataError, match="no such file"):
        apply_review(Project(folder), fill(tmp_path / "f.csv", {"u0": "cat"}))
    (folder / "gone.csv").rename(folder / "t.csv")
    assert state(folder) == before
    with pytest.raises(DataError, match="no applied review to undo"):
        undo_review(Project(folder))


def test_taken_back_after_the_source_has_grown_keeps_what_is_new(tmp_path):
    folder = made(tmp_path / "a")
    apply_review(Project(folder), fill(tmp_path / "f.csv", SAID))
    made(folder, 80)
    init(folder)
    assert undo_review(Project(folder)).lines[0].strip().startswith("manifest.parquet had changed since")
    manifest = Manifest.load(folder / "manifest.parquet")
    assert manifest.n_samples == 160
    assert not (folder / "corrections.csv").exists()
    assert (manifest.labels[[sample.startswith("u") for sample in manifest.ids]] == -1).all()


def test_corrections_that_changed_since_are_not_lost(tmp_path):
    folder = made(tmp_path / "a")
    apply_review(Project(folder), fill(tmp_path / "f.csv", SAID))
    with (folder / "corrections.csv").open("a") as file:
        file.write("r7,cat\n")
    before = state(folder)
    with pytest.raises(DataError, match=r"corrections.csv: has been changed since f.csv was applied"):
        undo_review(Project(folder))
    assert state(folder) == before


@pytest.mark.parametrize("fails", range(9))
def test_killed_midway_it_is_completed_and_taken_back(tmp_path, monkeypatch, fails):
    """Killed before the renaming of its first, second ... file or folder."""
    folder, whole = made(tmp_path / "a"), made(tmp_path / "b")
    before, file = state(folder), fill(tmp_path / "f.csv", SAID)
    apply_review(Project(whole), file)
    killed = DyingRename(os.rename, fails)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(os, "rename", killed)
        with contextlib.suppress(Killed):
            apply_review(Project(folder), file)
    apply_review(Project(folder), file)
    for name in ("manifest.parquet", "corrections.csv", "init.log"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    undo_review(Project(folder))
    assert state(folder) == before
    with pytest.raises(DataError, match="no applied review to undo"):
        undo_review(Project(folder))


# -- a whole project


@pytest.fixture
def reviewed(own_folder) -> Path:
    """A copy of a project with runs."""
    return own_folder


def test_a_review_of_a_project_whose_images_cannot_be_read(reviewed, monkeypatch):
    def refused(*arguments):
        raise AssertionError("an image was read")

    monkeypatch.setattr("mmfeat.data.images.image_sources.ImageSources.read", refused)
    result = review(Project(reviewed), n=6)
    assert (result.n_rows, result.split, result.file) == (6, "unlabelled", reviewed / "review.csv")
    assert result.made
    header, *rows = cells(result.file.read_bytes())
    assert header == [
        "id",
        "image",
        "caption",
        "given",
        "model",
        "probabilities",
        "opinion_image",
        "opinion_text",
        "why",
        "labels",
    ]
    manifest = Project(reviewed).manifest
    where = {sample: row for row, sample in enumerate(manifest.ids)}
    for row in rows:
        at = where[unharmed(row[0])]
        assert (manifest.labels[at] == -1).all()
        assert unharmed(row[2]) == manifest.captions[at]
        assert row[1].endswith(manifest.images[at])
        assert row[3] == row[-1] == ""
        assert all(name in manifest.classes for name in row[4].split())
        assert row[8]
    assert not review(Project(reviewed), n=6).made
    assert [row[0] for row in cells(review(Project(reviewed), n=3).file.read_bytes())[1:]] == [r[0] for r in rows[:3]]


def test_labels_that_the_model_contradicts(reviewed):
    project = Project(reviewed)
    result = review(project, "crossattn-1", n=5, split="train", out=reviewed / "audit.csv")
    assert result.in_sample.startswith("in-sample for")
    header, *rows = cells(result.file.read_bytes())
    given, model, why = (header.index(name) for name in ("given", "model", "why"))
    assert rows
    assert all(row[given] != row[model] and "given, the model says" in row[why] for row in rows)
    assert {"opinion_image", "opinion_text"} <= set(header)


def test_answers_are_not_overwritten_and_corrected_rows_not_asked_again(reviewed):
    project = Project(reviewed)
    file = review(project, "crossattn-1", n=5).file
    header, *rows = cells(file.read_bytes())
    first = unharmed(rows[0][0])
    rows[0][-1] = project.manifest.classes[0]
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])
    filled = file.read_bytes()
    with pytest.raises(
        DataError, match=r"has 1 row filled in, and is not overwritten.*--apply .*review.csv, or .* --out FILE"
    ):
        review(project, "crossattn-1", n=5)
    assert file.read_bytes() == filled
    applied = apply_review(project, file)
    assert "labelled       1   were unlabelled, are now" in applied.lines[0]
    found = review(Project(reviewed), "crossattn-1", n=80, out=reviewed / "more.csv")
    asked_again = [unharmed(row[0]) for row in cells(found.file.read_bytes())[1:]]
    assert first not in asked_again
    review(Project(reviewed), "crossattn-1", n=5)  # what was filled in is kept
    (reviewed / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"notes.csv:1: no column 'id'.*It is not overwritten"):
        review(Project(reviewed), "crossattn-1", n=5, out=reviewed / "notes.csv")


def typed(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(group, ["--project", str(folder), "review", *arguments])


def test_the_command_line(reviewed):
    file = str(reviewed / "review.csv")
    found = typed(reviewed, "crossattn-1", "--n", "3")
    assert (
        f"Made {file} (3 of 20 unlabelled rows). Next: mmfeat --project {reviewed} review --apply {file}"
        in found.output
    )
    assert f"{NO_LABELS[0]} where no class applies" in found.output
    assert "no row is filled in" in str(typed(reviewed, "--apply", file).exception)
    _, *rows = cells((reviewed / "review.csv").read_bytes())
    fill(Path(file), {unharmed(rows[0][0]): "-"})
    applied = typed(reviewed, "--apply", file)
    assert applied.output.splitlines()[-1].startswith(
        "Applied 1 answer of review.csv: corrections.csv and manifest.parquet"
    )
    assert "Nothing to do" in typed(reviewed, "--apply", file).output
    assert "Undid 1 answer of review.csv" in typed(reviewed, "--undo").output
    for two in (["--apply", file, "--undo"], ["crossattn-1", "--undo"], ["--apply", file, "--out", "x.csv"]):
        assert typed(reviewed, *two).exit_code == 2
