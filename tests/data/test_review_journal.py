"""The file of a page's answers: what was confirmed is read back whatever happened, and damage is named."""

from __future__ import annotations

import json

import pytest

from mmfeat.common.errors import DataError
from mmfeat.data.review_answers import AnswerNames
from mmfeat.data.review_journal import ReviewJournal, SavedAnswer, read_journal

IDS, CLASSES = ("r0", "r1", "r\u00e9", "<b>"), ("cat", "dog", "a b")


def names() -> AnswerNames:
    return AnswerNames(IDS, CLASSES, otherwise="remove it")


def filled(file) -> ReviewJournal:
    journal = ReviewJournal(file)
    journal.add("r0", ["cat"])
    journal.add("r\u00e9", [])
    journal.add("<b>", ["dog", "a b"])
    journal.add("r0", ["dog"])
    return journal


def test_the_last_answer_counts_and_one_that_was_taken_back_is_none(tmp_path):
    journal = filled(tmp_path / "review.jsonl")
    journal.add("<b>", None, undo=True)
    assert journal.given() == {"r0": ["dog"], "r\u00e9": []}
    assert journal.history == [("r0", None), ("r\u00e9", None), ("r0", ("cat",))]
    journal.close()
    again = ReviewJournal(journal.file)
    assert (again.answers, again.history, again.revision) == (journal.answers, journal.history, 5)
    assert again.get("r1") == SavedAnswer(labels=None, revision=0)
    again.close()
    found = read_journal(journal.file, names())
    assert (found.given, found.n_blank) == ({"r0": ["dog"], "r\u00e9": []}, 1)


def test_a_process_that_was_killed_while_it_wrote_loses_only_what_was_not_confirmed(tmp_path):
    file = tmp_path / "review.jsonl"
    filled(file).close()
    content = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    states = []
    for cut in range(len(content) + 1):
        file.write_bytes(content[:cut])
        journal = ReviewJournal(file)
        assert journal.revision == max(0, sum(end <= cut for end in ends) - 1)
        states.append(journal.given())
        journal.add("r1", ["cat"])
        journal.close()
        assert read_journal(file, names()).given == {**states[-1], "r1": ["cat"]}
    assert states[-1] == {"r0": ["dog"], "r\u00e9": [], "<b>": ["dog", "a b"]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"not json", ":3: is damaged: Expecting value: line 1 column 1 (char 0). Remove the line"),
        (b'{"revision": 2, "id": "r1", "labels": "cat", "time": ""}', ":3: is damaged: labels is 'cat', not a list"),
        (b'{"revision": 7, "id": "r1", "labels": [], "time": ""}', ":3: is damaged: revision is 7, not 2"),
        (
            b'{"revision": 2, "id": "r9", "labels": [], "time": ""}',
            ":3: no row 'r9' in the manifest. ",
        ),
        (
            b'{"revision": 2, "id": "r1", "labels": ["dgo"], "time": ""}',
            ":3: row 'r1': 'dgo' is not among the 3 classes",
        ),
    ],
)
def test_damage_and_unknown_names_are_one_line_with_their_place(tmp_path, line, says):
    file = tmp_path / "review.jsonl"
    journal = filled(file)
    journal.close()
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:2], line, b""]))
    with pytest.raises(DataError) as error:
        read_journal(file, names())
    assert f"{file}{says}" in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b"id,labels\nr0,cat\n", b"[]\n", b"no line break", json.dumps({"mmfeat": "x", "format": 2}).encode() + b"\n"],
)
def test_another_file_is_left_alone(tmp_path, content):
    file = tmp_path / "review.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"is not a file of answers of mmfeat review --serve"):
        ReviewJournal(file)
    assert file.read_bytes() == content
