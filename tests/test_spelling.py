"""Names that look the same are the same name: labels, class lists, columns, corrections, reviews, ids, runs."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.labels import class_positions, label_cells, split_labels
from mmfeat.common.lineage import Lineage
from mmfeat.common.spelling import Spellings, normal_name, spelled_as
from mmfeat.data.corrections import add_answers, corrected, corrected_ids
from mmfeat.data.difference import difference
from mmfeat.data.manifest import Manifest
from mmfeat.data.review_table import read_answers
from mmfeat.data.tables.readers import read_classes, read_rows, read_source
from mmfeat.project.initialisation import init
from mmfeat.runs.run import Run

NFC, NFD = "café", unicodedata.normalize("NFD", "café")
ODD = {
    "decomposed": NFD,
    "byte order mark": f"\ufeff{NFC}",
    "zero width": "ca\u200bfé",
    "no-break": f"\u00a0{NFC}\u00a0",
}


def write(path: Path, *rows: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def source(tmp_path: Path, *rows: list[str], **options):
    columns = {"id": "", "image": "", "caption": "", "labels": "", "group": ""} | options.pop("columns", {})
    return read_source(write(tmp_path / "t.csv", *rows), columns, **options)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_name_has_one_form(odd):
    assert odd != NFC
    assert normal_name(odd) == NFC
    assert split_labels(f"{odd},{NFC}", ",") == [NFC]


@given(st.text())
def test_the_form_of_a_name_is_its_own_form(text):
    assert normal_name(normal_name(text)) == normal_name(text)


def test_joiners_stay():
    family = "\U0001f468\u200d\U0001f469"
    assert normal_name(family) == family


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_labels_that_look_the_same_are_one_class(tmp_path, odd):
    data = source(
        tmp_path, ["id", "caption", "labels"], ["1", "x", NFC], ["2", "y", odd], ["3", "z", "tea"], separator=","
    )
    assert data.classes == (NFC, "tea")
    assert data.encoded(data.classes).tolist() == [[1, 0], [1, 0], [0, 1]]


def test_lists_of_labels_and_class_lists_too(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"id": i, "caption": i, "labels": [name]}) + "\n" for i, name in (("1", NFC), ("2", NFD)))
    )
    write(tmp_path / "classes.csv", ["label"], [NFD], ["tea"])
    classes = read_classes(tmp_path / "classes.csv")
    assert classes == (NFC, "tea")
    data = read_source(tmp_path / "t.jsonl", {}, classes=classes)
    assert data.encoded(classes).tolist() == [[1, 0], [1, 0]]
    write(tmp_path / "twice.csv", ["label"], [NFD], [NFC])
    with pytest.raises(DataError, match=r"twice.csv:3: repeats"):
        read_classes(tmp_path / "twice.csv")


def test_categories_of_coco_too(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "categories": [{"id": 1, "name": NFD}, {"id": 2, "name": "tea"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
    }
    (tmp_path / "instances_x.json").write_text(json.dumps(content))
    assert read_source(tmp_path, {"labels": [NFC]}).classes == (NFC,)


@pytest.mark.parametrize("odd", [NFD, f"\ufeff{NFC}"])
def test_columns_are_found_by_how_they_look(tmp_path, odd):
    rows = [["id", "caption", odd, "tea"], ["1", "x", "1", "0"], ["2", "y", "0", "1"]]
    data = source(tmp_path, *rows, columns={"labels": [NFC, "tea"]})
    assert (data.classes, data.columns["labels"]) == ((NFC, "tea"), [odd, "tea"])
    assert data.encoded(data.classes).tolist() == [[1, 0], [0, 1]]
    assert read_rows(tmp_path / "t.csv", {"caption": "caption\u200b"}, {}).captions == ["x", "y"]


def test_two_columns_that_look_the_same_are_an_error(tmp_path):
    rows = [["id", "caption", NFD, NFC], ["1", "x", "1", "0"], ["2", "y", "0", "1"]]
    with pytest.raises(DataError, match=r"label columns 'cafe\\u0301' and 'caf\\xe9' look the same"):
        source(tmp_path, *rows)
    rows[0][3] = f"{NFC}\u200b"
    with pytest.raises(
        DataError, match=r"column 'caf\\xe9' may be 'caf\\xe9\\u200b' or 'cafe\\u0301', which look the same"
    ):
        source(tmp_path, *rows, columns={"labels": [NFC]})


def test_the_second_table_may_spell_columns_otherwise(tmp_path):
    write(tmp_path / "train.csv", ["id", "caption", NFC, "tea"], ["1", "x", "1", "0"], ["2", "y", "0", "1"])
    write(tmp_path / "test.csv", ["id", "caption", NFD, "tea"], ["3", "x", "1", "0"])
    data = read_source(tmp_path, {})
    assert data.encoded(data.classes).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_options_that_look_like_the_file_agree_with_it(tmp_path):
    write(tmp_path / "t.csv", ["id", NFC, "labels"], ["1", "x", "a"], ["2", "y", "b"])
    init(tmp_path, str(tmp_path / "t.csv"), caption_column=NFC)
    assert init(tmp_path, caption_column=NFD).unchanged
    with pytest.raises(ConfigError, match=r"says data\.caption"):
        init(tmp_path, caption_column="cafe")


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_corrections_find_rows_and_classes_by_how_they_look(tmp_path, odd):
    data = source(tmp_path, ["id", "caption", "labels"], [NFC, "x", "tea"], ["2", "y", NFC], separator=",")
    file = write(tmp_path / "corrections.csv", ["\u200bid", "labels"], [odd, odd])
    found = corrected(data, file, ",", closed=False)
    assert found.classes == (NFC,)
    assert found.labels.tolist() == [[1], [1]]
    assert corrected_ids(file).find(NFC)
    assert add_answers(file, {NFC: [NFC]}, {}, separator=",") == file.read_bytes()


def test_two_ids_that_look_the_same_are_told_apart_by_their_letters_or_not_at_all(tmp_path):
    data = source(tmp_path, ["id", "caption", "labels"], [NFC, "x", "a"], [NFD, "y", "b"])
    assert data.ids == [NFC, NFD]
    assert any("1 id that looks like another" in hint for hint in data.hints)
    file = write(tmp_path / "corrections.csv", ["id", "labels"], [NFD, "a"])
    assert corrected(data, file, " ", closed=False).labels[:, 0].tolist() == [1, 1]
    write(file, ["id", "labels"], [f"{NFC}\u200b", "a"])
    with pytest.raises(DataError, match=r"corrections.csv:2: the id .* may be .*, which look the same"):
        corrected(data, file, " ", closed=False)


def test_a_review_is_read_by_how_names_look(tmp_path):
    file = write(tmp_path / "review.csv", ["id", "labels"], [NFD, f"{NFD}; tea"])
    assert read_answers(file, [NFC, "2"], (NFC, "tea"), separator=" ").given == {NFC: [NFC, "tea"]}
    assert read_answers(file, [NFC, "2"], (NFD, "tea"), separator=" ").given == {NFC: [NFD, "tea"]}  # an older manifest


def manifest(ids: list[str], classes: tuple[str, ...], labels: list[list[int]]) -> Manifest:
    same = {
        name: np.full(len(ids), value, object)
        for name, value in (("images", ""), ("captions", "x"), ("split", "train"))
    }
    return Manifest(ids=np.array(ids, dtype=object), labels=np.array(labels, np.int8), classes=classes, **same)


def test_manifests_that_look_the_same_are_not_different():
    before = manifest([NFD, "b"], ("tea", NFD), [[1, 0], [0, 1]])
    after = manifest([NFC, "b"], ("tea", NFC), [[1, 0], [0, 1]])
    assert difference(before, after).lines() == []
    after = manifest([NFC, NFD, "b"], (NFC, "tea"), [[0, 1], [0, 1], [1, 0]])
    found = difference(before, after)
    assert (found.new, found.gone, found.reordered, found.classes, found.labels) == ([NFC], [], True, False, {})


def test_rows_keep_their_split_when_their_ids_are_spelled_otherwise(tmp_path):
    names = [f"caf\u00e9{i}" for i in range(30)]

    def table(form: str) -> None:
        rows = ([unicodedata.normalize(form, n), f"c{i}", "ab"[i % 2]] for i, n in enumerate(names))
        write(tmp_path / "t.csv", ["id", "caption", "labels"], *rows)

    table("NFC")
    first = init(tmp_path, str(tmp_path / "t.csv"), val=0.3).manifest
    table("NFD")
    again = init(tmp_path).manifest
    assert again.ids[0] == unicodedata.normalize("NFD", names[0])  # as the source has them
    assert again.split.tolist() == first.split.tolist()
    learned = Lineage.of(first.ids, [])
    assert learned.among(again.ids)[0].all()
    assert not learned.among(["cafe1"])[0].any()


def test_runs_of_classes_that_are_spelled_otherwise_are_of_the_same_classes(tmp_path):
    assert class_positions(["tea", NFD], [NFC, "tea"]).tolist() == [1, 0]
    assert class_positions([NFD, NFC], [NFC, NFD]).tolist() == [1, 0]
    assert class_positions([NFD, NFC], [NFC, "tea"]) is None
    run = Run(tmp_path, {"classes": ["tea", NFD], "threshold": [0.1, 0.2]}).in_order_of((NFC, "tea"))
    assert (run.classes, run.record["threshold"], run.columns.tolist()) == ((NFC, "tea"), [0.2, 0.1], [1, 0])


def test_a_submission_has_the_columns_as_the_source_spells_them():
    header, cells = label_cells(np.array([[1, 0]], np.int8), (NFC, "tea"), ["tea", NFD], " ")
    assert (header, cells) == (["tea", NFD], [["0", "1"]])


def test_names_are_spelled_as_those_that_are_wanted():
    assert spelled_as([NFD, "b"], ["b", NFC, "d"]) == [NFC, "b"]
    assert spelled_as([NFD, NFC], [NFC]) == [NFD, NFC]  # spelled like it goes first
    with pytest.raises(DataError, match="look the same"):
        spelled_as([NFD, f"{NFC}\u200b"], [NFC])
    with pytest.raises(DataError, match="look the same"):
        spelled_as([NFD], [NFC, f"{NFC}\u200b"])
    assert Spellings([NFC]).find("cafe") is None
