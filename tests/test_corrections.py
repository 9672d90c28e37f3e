"""Labels given by a person: what they do to a source, and what is refused."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.corrections import corrected
from mmfeat.data.tables.readers import Source

COLUMNS = {"id": "ImageID", "image": "", "caption": "text", "labels": "Labels", "group": ""}


def source(*labels, classes=("bird", "cat", "dog")) -> Source:
    n = len(labels)
    return Source("table", COLUMNS, [f"r{i}" for i in range(n)], [""] * n, ["x"] * n, list(labels), [""] * n, classes)


def write(tmp_path, text: str):
    (tmp_path / "corrections.csv").write_text(text, encoding="utf-8")
    return tmp_path / "corrections.csv"


THREE = (["cat"], ["bird", "dog"], None)


def test_without_a_file_the_source_is_as_it_is(tmp_path):
    found = corrected(source(*THREE), tmp_path / "corrections.csv", " ", closed=False)
    assert found.labels.tolist() == [[0, 1, 0], [1, 0, 1], [-1, -1, -1]]
    assert (found.classes, found.n_rows, found.n_differ) == (("bird", "cat", "dog"), 0, 0)


@pytest.mark.parametrize("header", ["id,labels", "ImageID,Labels", "Labels,ImageID"])
def test_a_row_has_exactly_the_labels_that_are_given(tmp_path, header):
    lines = [("r1", "cat  dog cat"), ("r2", ""), ("r0", "cat")]
    lines = [pair if header.split(",")[0] != "Labels" else pair[::-1] for pair in lines]
    file = write(tmp_path, "\n".join([header, *map(",".join, lines)]) + "\n")
    found = corrected(source(*THREE), file, " ", closed=True)
    assert found.labels.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert (found.n_rows, found.n_differ) == (3, 2)
    assert found.classes == ("bird", "cat", "dog")  # a class list stays, though no row is a bird any more
    assert (found.new, found.gone) == ([], [])


def test_further_columns_and_a_byte_order_mark_do_no_harm(tmp_path):
    file = write(tmp_path, "\ufeffwhy,id,labels\r\nblurred,r0,dog\r\n\r\n")
    assert corrected(source(*THREE), file, " ", closed=True).labels[0].tolist() == [0, 0, 1]


def test_without_a_class_list_classes_are_the_labels_that_rows_have(tmp_path):
    file = write(tmp_path, "id,labels\nr1,dog\nr0,cow\n")
    found = corrected(source(*THREE, ["cat"]), file, " ", closed=False)
    assert found.classes == ("cat", "cow", "dog")
    assert (found.new, found.gone) == (["cow"], ["bird"])
    assert found.labels.tolist() == [[0, 1, 0], [0, 0, 1], [-1, -1, -1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("classes", "expected"), [(("1", "2", "10"), ("1", "2", "3", "10")), (("2", "10", "1"), ("2", "10", "1", "3"))]
)
def test_a_new_class_stands_where_the_source_would_put_it(tmp_path, classes, expected):
    file = write(tmp_path, "id,labels\nr0,3 2\n")
    data = source(["2"], ["10"], ["1"], ["2"], classes=classes)
    assert corrected(data, file, " ", closed=False).classes == expected


def test_a_class_without_rows_that_nobody_corrected_stays(tmp_path):
    file = write(tmp_path, "id,labels\nr0,dog\n")
    found = corrected(source(["cat"], ["dog"]), file, " ", closed=False)
    assert found.classes == ("bird", "dog")


@pytest.mark.parametrize(
    ("text", "closed", "says"),
    [
        ("id,labels\nr0,cat\nr0,dog\n", False, ":3: repeats the id 'r0' of line 2"),
        ("id,labels\nr0,cat\nr33,dog\n", False, ":3: no row 'r33' in the source. Nearest: 'r3'"),
        ("id,labels\nr0,cat\n ,dog\n", False, ":3: the id is blank"),
        ("id,labels\nr0,cat\nr1,dgo cat\n", True, ":3: label 'dgo' is not in the class list of 3. Nearest: 'dog'"),
        ('id,labels\nr0,"cat,dog"\n', False, ":2: label 'cat,dog' is several labels. They are separated by ' '"),
        ("id,label\nr0,cat\n", False, ":1: no column 'labels' (or 'Labels', as in the source). Columns: 'id', 'label'"),
        ("sample,labels\nr0,cat\n", False, ":1: no column 'id' (or 'ImageID', as in the source)"),
        ("id,labels\nr0,cat,dog\n", False, ":2: 3 cells under a header of 2"),
        ("id,labels\n\x1b[31m,cat\n", False, r":2: no row '\x1b[31m'"),
        ("", False, "empty"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, text, closed, says):
    file = write(tmp_path, text)
    with pytest.raises(DataError) as error:
        corrected(source(*THREE, ["cat"]), file, " ", closed=closed)
    assert str(error.value).startswith(str(file))
    assert says in str(error.value)
    assert str(error.value).isprintable()


NAMES = st.lists(st.sampled_from(["bird", "cat", "dog", "two words", "é"]), max_size=4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.none() | NAMES.filter(bool), min_size=1, max_size=8),
    st.dictionaries(st.integers(0, 7), NAMES, min_size=1),
)
def test_corrected_rows_are_as_given_and_others_as_they_were(tmp_path_factory, labels, given_labels):
    data = source(*labels, classes=tuple(sorted({name for names in labels for name in names or ()})))
    given_labels = {row: names for row, names in given_labels.items() if row < len(labels)}
    if not given_labels:
        return
    file = tmp_path_factory.mktemp("corrections") / "corrections.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        lines = [[f"r{row}", "|".join(names)] for row, names in given_labels.items()]
        csv.writer(opened).writerows([["id", "labels"], *lines])
    found = corrected(data, file, "|", closed=False)
    for row, names in enumerate(labels):
        expected = given_labels.get(row, names)
        if expected is None:
            assert (found.labels[row] == -1).all()
        else:
            assert {found.classes[k] for k in np.flatnonzero(found.labels[row] == 1)} == set(expected)
            assert (found.labels[row] >= 0).all()
    assert set(found.classes) == {n for r, names in enumerate(labels) for n in given_labels.get(r, names) or ()}
    differ = [r for r, names in given_labels.items() if labels[r] is None or set(names) != set(labels[r])]
    if found.classes or any(labels):
        assert found.n_differ == len(differ)
