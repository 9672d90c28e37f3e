"""The list of synonyms is safe for labels, and replacing touches two words and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmfeat.data.synonyms as module
from mmfeat.common.errors import DataError
from mmfeat.data.synonyms import LISTS, load_synonyms, named_synonyms, replace_two, replaceable

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")

FILE = Path(module.__file__).with_name("synonyms.txt")
LINES = FILE.read_text(encoding="utf-8").splitlines()
GROUPS = [line.split(", ") for line in LINES if not line.startswith("#")]
SYNONYMS = load_synonyms()
KEYS = range(60)

# Words that tell labels apart in the photographs that lists of labels come from; a line may hold words of one kind only.
KINDS = {
    "person": "man men woman women boy boys girl girls child children baby people person player",
    "bicycle": "bicycle bicycles bike bikes cycle",
    "car": "car cars van taxi suv jeep",
    "motorcycle": "motorcycle motorcycles scooter moped",
    "airplane": "airplane airplanes plane planes jet jets jetliner",
    "bus": "bus buses coach",
    "train": "train trains locomotive tram subway",
    "truck": "truck trucks trailer",
    "boat": "boat boats ship ships canoe",
    "bird": "bird birds seagull duck pigeon rooster",
    "cat": "cat cats kitten kittens",
    "dog": "dog dogs puppy puppies",
    "horse": "horse horses pony",
    "other animal": "sheep cow cattle elephant bear zebra giraffe",
    "seat": "bench benches",
    "other seat": "chair chairs couch couches",
}
KIND = {word: kind for kind, words in KINDS.items() for word in words.split()}


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|[\W\d_]+", text)


def test_the_list_states_its_source_and_licence_and_is_long_enough():
    head = " ".join(LINES[: next(i for i, line in enumerate(LINES) if not line.startswith("#"))])
    assert "Written for mmfeat" in head
    assert "Apache-2.0" in head
    assert len(GROUPS) >= 150


def test_every_word_is_lowercase_can_be_found_in_a_caption_and_stands_on_one_line():
    for word, n in Counter(word for group in GROUPS for word in group).items():
        assert re.fullmatch("[a-z]+", word), word
        assert n == 1, f"{word} stands on {n} lines"


def test_no_line_changes_a_label():
    for group in GROUPS:
        assert len({KIND[word] for word in group if word in KIND}) <= 1, group


@pytest.mark.parametrize(
    "caption",
    [
        "hot dog",
        "stop sign",
        "fire hydrant",
        "traffic light",
        "parking meter",
        "park bench",
        "skate park",
        "home plate",
        "wine glasses",
        "double decker bus",
        "train tracks",
        "green",
        "on top of it",
    ],
)
def test_compounds_and_words_of_many_senses_are_left_alone(caption):
    assert {replace_two(caption, SYNONYMS, key) for key in KEYS} == {caption}


def test_synonymy_goes_both_ways_and_never_to_the_word_itself():
    assert set(SYNONYMS) == {word for group in GROUPS for word in group}
    for word, others in SYNONYMS.items():
        assert others
        assert word not in others
        assert all(word in SYNONYMS[other] for other in others)


captions = st.lists(
    st.one_of(st.sampled_from(sorted(SYNONYMS)), st.sampled_from(["a", "the", "frisbee", "zebra", "Man", "Street"])),
    max_size=9,
).map(" ".join)
keys = st.integers(0, 2**64 - 1)


@given(captions, keys)
def test_exactly_two_words_change_where_there_are_two(caption, key):
    before, after = caption.split(" "), replace_two(caption, SYNONYMS, key).split(" ")
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == min(2, sum(word.lower() in SYNONYMS for word in before))
    for a, b in changed:
        assert b.lower() in SYNONYMS[a.lower()]
        assert a[0].isupper() == b[0].isupper()


@given(st.text(), keys)
def test_any_text_is_taken_and_all_but_the_words_of_the_list_stays(text, key):
    caption = f"{text} Man, {text}"
    before, after = words_of(caption), words_of(replace_two(caption, SYNONYMS, key))
    assert len(before) == len(after)
    assert all(a == b or a.lower() in SYNONYMS for a, b in zip(before, after, strict=True))


@given(captions, keys)
def test_the_number_alone_decides(caption, key):
    assert replace_two(caption, SYNONYMS, key) == replace_two(caption, SYNONYMS, key)


def test_over_many_numbers_every_pair_and_every_synonym_is_used():
    synonyms = {"a": ("x", "y"), "b": ("z",), "c": ("w",)}
    seen = Counter(replace_two("a b c", synonyms, key) for key in range(3000))
    assert set(seen) == {"x z c", "y z c", "x b w", "y b w", "a z w"}
    assert seen["a z w"] == pytest.approx(1000, abs=120)
    assert seen["x z c"] == pytest.approx(500, abs=100)


def test_capitals_and_punctuation_stay():
    found = {replace_two('"Man," (street)!\n', {"man": ("guy",), "street": ("road",)}, key) for key in KEYS}
    assert found == {'"Guy," (road)!\n'}


@pytest.mark.parametrize(
    "caption", ["", " ", "zebra", "man-made", "old-man", "man's", "man2", "man_1", "2man", "mankind", "42"]
)
def test_a_caption_without_such_words_comes_back_unchanged(caption):
    assert {replace_two(caption, {"man": ("guy",)}, key) for key in KEYS} == {caption}


@pytest.mark.parametrize("line", ["alone", "man,", ",", "man,,guy", "man, man", "man, guy, Man"])
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "words.txt"
    path.write_text(f"# a comment\n\nred, crimson\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"words\.txt:4: ") as error:
        load_synonyms(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200 + len(str(path))


def test_a_long_line_is_shortened_in_its_message(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("x" * 5000, encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_synonyms(path)
    assert len(str(error.value)) < 200 + len(str(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="none"):
        load_synonyms(tmp_path / "none.txt")
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xff, bistro\n")
    with pytest.raises(DataError, match=r"latin.txt:1: not UTF-8 \(byte 0xff\)"):
        load_synonyms(path)


def test_comments_blank_lines_spaces_and_capitals_are_taken(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# red, blue\r\n\r\n Red ,crimson\r\n", encoding="utf-8")
    assert load_synonyms(path) == {"red": ("crimson",), "crimson": ("red",)}


# -- the larger list

LARGE = load_synonyms(LISTS["wordnet"])
COMPOUNDS = [word for word in LARGE if " " in word]


def test_the_larger_list_ships_with_its_licence_and_is_small():
    text = LISTS["wordnet"].read_text(encoding="utf-8")
    licence = LISTS["wordnet"].with_name("synonyms-wordnet-licence.txt").read_text(encoding="utf-8")
    assert "WordNet 3.1 Copyright 2011 by Princeton University" in text
    assert "WordNet 3.1 Copyright 2011 by Princeton University.  All rights reserved." in licence
    assert "Permission to use, copy, modify and distribute this software" in licence
    assert len(text.encode()) < 2e6


def test_the_larger_list_has_single_words_with_other_words_of_the_same_label():
    for word, others in LARGE.items():
        if word in COMPOUNDS:
            assert not others
            continue
        assert re.fullmatch("[a-z]+", word)
        assert others
        assert word not in others
        assert all(re.fullmatch("[a-z]+", other) for other in others)
        assert len({KIND[one] for one in (word, *others) if one in KIND}) <= 1, word
    assert set(SYNONYMS) <= set(LARGE)


@pytest.mark.parametrize(("word", "other"), [("holds", "grips"), ("cars", "automobiles"), ("assisting", "helping")])
def test_synonyms_are_inflected_like_the_word(word, other):
    assert other in LARGE[word]


@pytest.mark.parametrize("caption", ["a hot dog", "A Stop Sign", "at a fire hydrant", "a double decker"])
def test_compounds_of_the_larger_list_are_left_alone(caption):
    assert {replace_two(caption, LARGE, key) for key in KEYS} == {caption}
    assert replace_two("a dog", LARGE, 1) in ("a canine", "a hound")


def test_nearly_all_captions_get_two_words(coco18):
    """Without a parser of tables: a caption is what follows the labels."""
    lines = (coco18 / "train.csv").read_text(encoding="utf-8").splitlines()
    captions = [line.split(",", 2)[2] for line in lines if re.match(r"\d+\.jpg,.*,", line)]
    assert len(captions) > 19_000
    two = {name: sum(len(replaceable(c, words)) >= 2 for c in captions) for name, words in LISTED.items()}
    assert two["wordnet"] / len(captions) >= 0.95
    assert two["mmfeat"] / len(captions) < 0.85


LISTED = {name: named_synonyms(name, Path()) for name in LISTS}


def test_a_list_is_named_or_a_file(tmp_path):
    (tmp_path / "own.txt").write_text("! stop sign, hot  dog\ndog: canine, hound\nred, crimson\n", encoding="utf-8")
    own = named_synonyms("own.txt", tmp_path)
    assert own == {
        "stop sign": (),
        "hot dog": (),
        "dog": ("canine", "hound"),
        "red": ("crimson",),
        "crimson": ("red",),
    }
    assert named_synonyms("", tmp_path) == LISTED["mmfeat"] == SYNONYMS
    assert LISTED["wordnet"] == LARGE
    (tmp_path / "own.txt").write_text("dog:\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"own\.txt:1: a line is two or more different words"):
        named_synonyms("own.txt", tmp_path)
