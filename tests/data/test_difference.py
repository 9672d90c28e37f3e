"""What is different between two manifests."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.labels import encode
from mmfeat.data.difference import difference
from mmfeat.data.manifest import Manifest
from mmfeat.report.data_summary import about_changes


def manifest(rows: dict[str, tuple], classes: tuple[str, ...]) -> Manifest:
    """From id to (image, caption, labels or None)."""
    images, captions = (np.array([row[i] for row in rows.values()], dtype=object) for i in range(2))
    split = np.full(len(rows), "train", dtype=object)
    labels = encode([row[2] for row in rows.values()], classes)
    ids = np.array(list(rows), dtype=object)
    return Manifest(ids=ids, images=images, captions=captions, labels=labels, split=split, classes=classes)


BEFORE = {"a": ("1", "x", ["cat"]), "b": ("2", "y", None), "c": ("3", "z", ["dog"])}
CLASSES = ("cat", "dog")


def test_rows_what_they_say_and_classes():
    after = {"d": ("4", "x", []), "c": ("33", "z", ["dog", "cow"]), "a": ("1", "x2", []), "e": ("5", "", None)}
    found = difference(manifest(BEFORE, CLASSES), manifest(after, ("cow", "dog")))
    assert (found.new, found.gone) == (["d", "e"], ["b"])
    assert found.images == {"c": ("3", "33")}
    assert found.captions == {"a": ("x", "x2")}
    assert found.labels == {"c": (["dog"], ["cow", "dog"]), "a": (["cat"], [])}
    assert (found.new_classes, found.gone_classes, found.reordered) == (["cow"], ["cat"], False)
    assert found.classes
    assert found.unencoded == 4
    assert found.lines() == [
        "class 'cow': new",
        "class 'cat': gone",
        "row 'd': new",
        "row 'e': new",
        "row 'b': gone",
        "image of 'c': '3', now '33'",
        "caption of 'a': 'x', now 'x2'",
        "labels of 'c': 'dog', now 'cow', 'dog'",
        "labels of 'a': 'cat', now nothing",
    ]
    text = about_changes(found)
    assert text[0] == "Since the previous manifest (all of it in init.log):"
    assert "  new            2   rows: 'd', 'e'" in text
    assert "  gone           1   class: 'cat'" in text


def test_an_unlabelled_row_that_gets_labels_has_changed():
    after = {**BEFORE, "b": ("2", "y", [])}
    assert difference(manifest(BEFORE, CLASSES), manifest(after, CLASSES)).labels == {"b": (None, [])}


def test_a_new_class_alone_changes_no_row():
    found = difference(manifest(BEFORE, CLASSES), manifest(BEFORE, ("cat", "cow", "dog")))
    assert not found.labels
    assert found.lines() == ["class 'cow': new"]


def test_another_order_of_classes_is_said():
    found = difference(manifest(BEFORE, CLASSES), manifest(BEFORE, CLASSES[::-1]))
    assert found.lines() == ["classes: in another order"]
    assert not found.classes  # what was made of them is found by name


def test_many_ids_are_shown_by_a_few_and_none_breaks_a_line():
    after = {f"\n\x1b{i}": ("", "x", ["cat"]) for i in range(1234)}
    found = difference(manifest(BEFORE, CLASSES), manifest(after, CLASSES))
    (line,) = (line for line in about_changes(found) if line.startswith("  new"))
    assert "1,234   rows: " in line
    assert line.endswith(" ...")
    assert line.isprintable()
    assert len(found.lines()) == 1234 + 3
    assert all(line.isprintable() for line in found.lines())


ROW = st.tuples(
    st.sampled_from(["", "1"]), st.sampled_from(["", "x"]), st.none() | st.lists(st.sampled_from("pqr"), unique=True)
)
ROWS = st.dictionaries(st.sampled_from("abcdef"), ROW, min_size=1)


@given(ROWS, ROWS)
def test_it_is_empty_exactly_where_nothing_is_different_and_mirrors(one, other):
    a, b = manifest(one, ("p", "q", "r")), manifest(other, ("p", "q", "r"))
    there, back = difference(a, b), difference(b, a)
    plain = [{i: (x, y, None if z is None else set(z)) for i, (x, y, z) in rows.items()} for rows in (one, other)]
    assert (not there.lines()) == (plain[0] == plain[1])
    assert (not about_changes(there)) == (not there.lines())
    assert set(there.new) == set(back.gone) == set(other) - set(one)
    for name in ("images", "captions", "labels"):
        assert getattr(there, name) == {i: (y, x) for i, (x, y) in getattr(back, name).items()}
